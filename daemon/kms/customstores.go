package kms

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"

	"cmkd/backends"
	"cmkd/daemon/access"
	"cmkd/daemon/journal"
	"cmkd/daemon/keys"
	"cmkd/daemon/lifecycle"
	"cmkd/daemon/paging"
	"cmkd/daemon/store"
	"cmkd/socket/kmsapi"
)

// A custom key store is a further token of the configuration, which clients
// know by its cluster ID. The PIN stays in the configuration: KeyStorePassword
// is never looked at.
// https://docs.aws.amazon.com/kms/latest/developerguide/keystore-cloudhsm.html

func errNoXKS() error {
	return kmsapi.Errorf(kmsapi.CodeUnsupportedOperationException,
		"External key stores (XKS) are not supported: keys of this service live in PKCS#11 tokens.")
}

// customStoreOperation authorises an operation on custom key stores.
func (s *Service) customStoreOperation(c *journal.Call) error {
	return s.AuthoriseAccount(c, &access.Demand{})
}

func (s methods) CreateCustomKeyStore(ctx context.Context, c *journal.Call, in *kmsapi.CreateCustomKeyStoreRequest) (*kmsapi.CreateCustomKeyStoreResponse, error) {
	if err := s.customStoreOperation(c); err != nil {
		return nil, err
	}
	if in.CustomKeyStoreType == kmsapi.CustomKeyStoreTypeExternalKeyStore || in.XksProxyUriEndpoint != "" {
		return nil, errNoXKS()
	}
	if in.CloudHsmClusterId == "" || in.TrustAnchorCertificate == "" || in.KeyStorePassword == "" {
		return nil, kmsapi.Errorf(kmsapi.CodeValidationException,
			"CloudHsmClusterId, TrustAnchorCertificate and KeyStorePassword are required for an AWS_CLOUDHSM custom key store.")
	}
	token, err := s.clusterToken(in.CloudHsmClusterId)
	if err != nil {
		return nil, err
	}
	if !s.Router.Serving(token, backends.SymmetricDefault) {
		return nil, errClusterNotActive(in.CloudHsmClusterId)
	}
	var id [9]byte
	_, _ = rand.Read(id[:]) // never fails: crypto/rand
	row := &store.CustomKeyStore{
		Region: c.Region, ID: "cks-" + hex.EncodeToString(id[:])[:17], Name: in.CustomKeyStoreName, Token: token,
		ClusterID: in.CloudHsmClusterId, TrustAnchor: in.TrustAnchorCertificate,
		ConnectionState: kmsapi.ConnectionStateTypeDisconnected, Created: s.Now(),
	}
	err = s.Commit(ctx, c, func(tx *store.Tx) error {
		if _, ok := tx.CustomKeyStoreByName(c.Region, row.Name); ok {
			return errStoreName(row.Name)
		}
		if _, ok := tx.CustomKeyStoreByToken(c.Region, token); ok {
			return kmsapi.Errorf(kmsapi.CodeCloudHsmClusterInUseException, "Cluster %s is used by another custom key store.", row.ClusterID)
		}
		c.Respond(journal.KeyElements{StoreID: row.ID})
		return tx.PutCustomKeyStore(row)
	})
	return &kmsapi.CreateCustomKeyStoreResponse{CustomKeyStoreId: row.ID}, err
}

func errClusterNotActive(id string) error {
	return kmsapi.Errorf(kmsapi.CodeCloudHsmClusterNotActiveException, "Cluster %s is not active: its token does not answer.", id)
}

func errStoreName(name string) error {
	return kmsapi.Errorf(kmsapi.CodeCustomKeyStoreNameInUseException, "A custom key store with the name %s already exists.", name)
}

// clusterToken finds the token that a cluster ID names.
func (s *Service) clusterToken(cluster string) (string, error) {
	token, ok := s.Clusters[cluster]
	if !ok || token == s.Token {
		return "", kmsapi.Errorf(kmsapi.CodeCloudHsmClusterNotFoundException, "Cluster %s is not a further token of the configuration.", cluster)
	}
	return token, nil
}

// changeStore stores a changed copy of a custom key store's row.
func (s *Service) changeStore(ctx context.Context, c *journal.Call, id string, f func(tx *store.Tx, row *store.CustomKeyStore) error) error {
	if err := s.customStoreOperation(c); err != nil {
		return err
	}
	return s.Commit(ctx, c, func(tx *store.Tx) error {
		now, ok := tx.CustomKeyStore(c.Region, id)
		if !ok {
			return lifecycle.ErrStoreNotFound(id)
		}
		row := *now
		if err := f(tx, &row); err != nil {
			return err
		}
		return tx.PutCustomKeyStore(&row)
	})
}

func (s methods) ConnectCustomKeyStore(ctx context.Context, c *journal.Call, in *kmsapi.ConnectCustomKeyStoreRequest) (*kmsapi.ConnectCustomKeyStoreResponse, error) {
	if err := s.customStoreOperation(c); err != nil {
		return nil, err
	}
	row, ok := c.View.CustomKeyStore(c.Region, in.CustomKeyStoreId)
	if !ok {
		return nil, lifecycle.ErrStoreNotFound(in.CustomKeyStoreId)
	}
	if err := checkConnectable(row); err != nil {
		return nil, err
	}
	if !s.Router.Serving(row.Token, backends.SymmetricDefault) {
		return nil, errClusterNotActive(row.ClusterID)
	}
	if row.ConnectionState == kmsapi.ConnectionStateTypeConnected {
		return &kmsapi.ConnectCustomKeyStoreResponse{}, nil
	}
	state, trouble := kmsapi.ConnectionStateTypeConnected, keys.ConnectionError("")
	if err := s.prepareToken(ctx, row.Token); err != nil {
		state, trouble = kmsapi.ConnectionStateTypeFailed, connectionError(err)
		s.Log.LogAttrs(ctx, slog.LevelError, "custom key store is not connected", slog.String("store", row.ID), slog.Any("error", err))
	}
	err := s.changeStore(ctx, c, in.CustomKeyStoreId, func(_ *store.Tx, row *store.CustomKeyStore) error {
		if err := checkConnectable(row); err != nil {
			return err
		}
		row.ConnectionState, row.ConnectionError = state, trouble
		return nil
	})
	return &kmsapi.ConnectCustomKeyStoreResponse{}, err
}

// checkConnectable refuses to connect a store that failed and was not
// disconnected since.
// https://docs.aws.amazon.com/kms/latest/APIReference/API_ConnectCustomKeyStore.html
func checkConnectable(row *store.CustomKeyStore) error {
	if row.ConnectionState == kmsapi.ConnectionStateTypeFailed {
		return lifecycle.ErrStoreState(row, "Disconnect it first.")
	}
	return nil
}

// prepareToken sees to the daemon's own keys in a further token: those that
// are missing are made, the others must be as they should.
func (s *Service) prepareToken(ctx context.Context, token string) error {
	if _, err := s.Init(ctx, token); err != nil {
		return err
	}
	return s.CheckSystemKeys(ctx, token)
}

// connectionError says in AWS's words why a store is not connected.
func connectionError(err error) kmsapi.ConnectionErrorCodeType {
	switch backends.CodeOf(err) {
	case backends.LoginFailed:
		return kmsapi.ConnectionErrorCodeTypeInvalidCredentials
	case backends.Lost, backends.Timeout:
		return kmsapi.ConnectionErrorCodeTypeNetworkErrors
	default:
		return kmsapi.ConnectionErrorCodeTypeInternalError
	}
}

func (s methods) DisconnectCustomKeyStore(ctx context.Context, c *journal.Call, in *kmsapi.DisconnectCustomKeyStoreRequest) (*kmsapi.DisconnectCustomKeyStoreResponse, error) {
	err := s.changeStore(ctx, c, in.CustomKeyStoreId, func(_ *store.Tx, row *store.CustomKeyStore) error {
		if row.ConnectionState == kmsapi.ConnectionStateTypeDisconnected {
			return lifecycle.ErrStoreState(row, "")
		}
		row.ConnectionState, row.ConnectionError = kmsapi.ConnectionStateTypeDisconnected, ""
		return nil
	})
	return &kmsapi.DisconnectCustomKeyStoreResponse{}, err
}

func (s methods) UpdateCustomKeyStore(ctx context.Context, c *journal.Call, in *kmsapi.UpdateCustomKeyStoreRequest) (*kmsapi.UpdateCustomKeyStoreResponse, error) {
	if in.XksProxyUriEndpoint != "" || in.XksProxyUriPath != "" || in.XksProxyConnectivity != "" {
		return nil, errNoXKS()
	}
	err := s.changeStore(ctx, c, in.CustomKeyStoreId, func(tx *store.Tx, row *store.CustomKeyStore) error {
		if err := checkUpdatable(row, in); err != nil {
			return err
		}
		if in.NewCustomKeyStoreName != "" && in.NewCustomKeyStoreName != row.Name {
			if _, ok := tx.CustomKeyStoreByName(c.Region, in.NewCustomKeyStoreName); ok {
				return errStoreName(in.NewCustomKeyStoreName)
			}
			row.Name = in.NewCustomKeyStoreName
		}
		if in.CloudHsmClusterId != "" && in.CloudHsmClusterId != row.ClusterID {
			token, err := s.clusterToken(in.CloudHsmClusterId)
			if err != nil {
				return err
			}
			if token != row.Token {
				return kmsapi.Errorf(kmsapi.CodeCloudHsmClusterNotRelatedException,
					"Cluster %s is another token: it does not hold the keys of this custom key store.", in.CloudHsmClusterId)
			}
			row.ClusterID = in.CloudHsmClusterId
		}
		return nil
	})
	return &kmsapi.UpdateCustomKeyStoreResponse{}, err
}

// checkUpdatable refuses to change a store that is not disconnected. Its name may
// also change while it is connected.
// https://docs.aws.amazon.com/kms/latest/APIReference/API_UpdateCustomKeyStore.html
func checkUpdatable(row *store.CustomKeyStore, in *kmsapi.UpdateCustomKeyStoreRequest) error {
	nameOnly := in.CloudHsmClusterId == "" && in.KeyStorePassword == ""
	if row.ConnectionState == kmsapi.ConnectionStateTypeDisconnected ||
		nameOnly && row.ConnectionState == kmsapi.ConnectionStateTypeConnected {
		return nil
	}
	return lifecycle.ErrStoreState(row, "Disconnect it first.")
}

func (s methods) DeleteCustomKeyStore(ctx context.Context, c *journal.Call, in *kmsapi.DeleteCustomKeyStoreRequest) (*kmsapi.DeleteCustomKeyStoreResponse, error) {
	if err := s.customStoreOperation(c); err != nil {
		return nil, err
	}
	err := s.Commit(ctx, c, func(tx *store.Tx) error {
		row, ok := tx.CustomKeyStore(c.Region, in.CustomKeyStoreId)
		if !ok {
			return lifecycle.ErrStoreNotFound(in.CustomKeyStoreId)
		}
		for k := range tx.AllKeys() {
			if k.CustomKeyStoreID == row.ID {
				return kmsapi.Errorf(kmsapi.CodeCustomKeyStoreHasCMKsException, "Custom key store %s has keys.", row.ID)
			}
		}
		if row.ConnectionState != kmsapi.ConnectionStateTypeDisconnected {
			return lifecycle.ErrStoreState(row, "Disconnect it first.")
		}
		tx.DeleteCustomKeyStore(row.Region, row.ID)
		return nil
	})
	return &kmsapi.DeleteCustomKeyStoreResponse{}, err
}

func (s methods) DescribeCustomKeyStores(_ context.Context, c *journal.Call, in *kmsapi.DescribeCustomKeyStoresRequest) (*kmsapi.DescribeCustomKeyStoresResponse, error) {
	if err := s.customStoreOperation(c); err != nil {
		return nil, err
	}
	if in.CustomKeyStoreId != "" && in.CustomKeyStoreName != "" {
		return nil, kmsapi.Errorf(kmsapi.CodeValidationException, "Specify CustomKeyStoreId or CustomKeyStoreName, not both.")
	}
	l := paging.ListOf(c, "")
	after, err := l.DecodeMarker(in.Marker)
	if err != nil {
		return nil, err
	}
	rows := func(yield func(*store.CustomKeyStore) bool) {
		for row := range c.View.CustomKeyStores(c.Region, after) {
			wanted := (in.CustomKeyStoreId == "" || row.ID == in.CustomKeyStoreId) && (in.CustomKeyStoreName == "" || row.Name == in.CustomKeyStoreName)
			if wanted && !yield(row) {
				return
			}
		}
	}
	list, next := paging.Page(l, rows, paging.Limit(in.Limit, 100), func(r *store.CustomKeyStore) string { return r.ID })
	if len(list) == 0 && in.CustomKeyStoreId+in.CustomKeyStoreName != "" {
		return nil, lifecycle.ErrStoreNotFound(in.CustomKeyStoreId + in.CustomKeyStoreName)
	}
	out := &kmsapi.DescribeCustomKeyStoresResponse{CustomKeyStores: []kmsapi.CustomKeyStoresListEntry{}, NextMarker: next, Truncated: next != ""}
	for _, r := range list {
		out.CustomKeyStores = append(out.CustomKeyStores, kmsapi.CustomKeyStoresListEntry{
			CustomKeyStoreId: r.ID, CustomKeyStoreName: r.Name, CloudHsmClusterId: r.ClusterID, TrustAnchorCertificate: r.TrustAnchor,
			ConnectionState:     r.ConnectionState,
			ConnectionErrorCode: r.ConnectionError,
			CreationDate:        r.Created, CustomKeyStoreType: kmsapi.CustomKeyStoreTypeAWSCloudHSM,
		})
	}
	return out, nil
}
