package kms

import (
	"context"

	"cmkd/socket/kmsapi"
)

// operation is one row of the API: adding an operation is one row in the
// table below and one method of Service.
type operation struct {
	name string
	// aliases: KeyId may be an alias. Management operations refuse aliases.
	aliases bool
	// refuses says in which key states admit refuses; see the letters in
	// state.go.
	refuses string
	// origin is the only Origin that the operation takes, "" any.
	origin kmsapi.OriginType
	// uses: the operation counts as a use of the key (GetKeyLastUsage).
	uses bool
	// readOnly is CloudTrail's readOnly.
	readOnly bool
	// serve decodes the body, runs the method and returns the answer.
	serve func(ctx context.Context, s *Service, c *Call, body []byte) (answer, error)
}

// answer is a response shape of the API.
type answer interface {
	AppendJSON(b []byte) []byte
	// Wipe overwrites what the answer has secret, which it shares with no row.
	Wipe()
}

// request is a pointer to a request shape of the API.
type request[In any] interface {
	*In
	// Decode parses and validates the body.
	Decode(body []byte) error
	// AppendParameters appends what the audit trail may know of the request,
	// as JSON.
	AppendParameters(b []byte) []byte
	// Wipe overwrites what the request has secret.
	Wipe()
}

// response is a pointer to a response shape of the API.
type response[Out any] interface {
	*Out
	answer
}

// method is how the operations are written: plain structs in and out.
type method[In, Out any] func(s *Service, ctx context.Context, c *Call, in *In) (*Out, error)

// handle makes the serve function of a method.
func handle[In, Out any, PIn request[In], POut response[Out]](m method[In, Out]) func(context.Context, *Service, *Call, []byte) (answer, error) {
	return func(ctx context.Context, s *Service, c *Call, body []byte) (answer, error) {
		in := PIn(new(In))
		defer in.Wipe()
		if err := in.Decode(body); err != nil {
			return nil, err
		}
		s.calls.describe(c, c.op.readOnly, c.region, in.AppendParameters(nil))
		out, err := m(s, ctx, c, (*In)(in))
		if err != nil {
			return nil, err
		}
		return POut(out), nil
	}
}

// The columns of refuses are the states Enabled, Disabled, PendingDeletion,
// PendingImport, Unavailable, Creating and Updating.
const (
	anyState  = "......."
	cryptoOp  = ".DPIUC."
	manageOp  = "..P...."
	grantOp   = ".DPI.C."
	disableOp = "..PI.CG"
	// Rotation operations answer for imported material and custom key stores
	// before the states that only those keys have.
	rotationOp = ".DP..C."
)

// operations are all the operations of the API model.
var operations = table(
	// Keys.
	operation{name: "CreateKey", serve: handle((*Service).createKey)},
	operation{name: "DescribeKey", aliases: true, refuses: anyState, readOnly: true, serve: handle((*Service).describeKey)},
	operation{name: "ListKeys", readOnly: true, serve: handle((*Service).listKeys)},
	operation{name: "UpdateKeyDescription", refuses: manageOp, serve: handle((*Service).updateKeyDescription)},
	operation{name: "EnableKey", refuses: disableOp, serve: handle((*Service).enableKey)},
	operation{name: "DisableKey", refuses: disableOp, serve: handle((*Service).disableKey)},
	operation{name: "GetPublicKey", aliases: true, refuses: cryptoOp, readOnly: true, serve: handle((*Service).getPublicKey)},

	// Aliases.
	operation{name: "CreateAlias", refuses: manageOp, serve: handle((*Service).createAlias)},
	operation{name: "UpdateAlias", refuses: manageOp, serve: handle((*Service).updateAlias)},
	operation{name: "DeleteAlias", refuses: anyState, serve: handle((*Service).deleteAlias)},
	operation{name: "ListAliases", refuses: anyState, readOnly: true, serve: handle((*Service).listAliases)},

	// Tags, key policies and grants.
	operation{name: "TagResource", refuses: manageOp, serve: handle((*Service).tagResource)},
	operation{name: "UntagResource", refuses: manageOp, serve: handle((*Service).untagResource)},
	operation{name: "ListResourceTags", refuses: anyState, readOnly: true, serve: handle((*Service).listResourceTags)},
	operation{name: "GetKeyPolicy", refuses: anyState, readOnly: true, serve: handle((*Service).getKeyPolicy)},
	operation{name: "PutKeyPolicy", refuses: anyState, serve: handle((*Service).putKeyPolicy)},
	operation{name: "ListKeyPolicies", refuses: anyState, readOnly: true, serve: handle((*Service).listKeyPolicies)},
	operation{name: "CreateGrant", refuses: grantOp, serve: handle((*Service).createGrant)},
	operation{name: "ListGrants", refuses: anyState, readOnly: true, serve: handle((*Service).listGrants)},
	operation{name: "ListRetirableGrants", readOnly: true, serve: handle((*Service).listRetirableGrants)},
	operation{name: "RetireGrant", refuses: anyState, serve: handle((*Service).retireGrant)},
	operation{name: "RevokeGrant", refuses: anyState, serve: handle((*Service).revokeGrant)},

	// Life cycle: rotation, deletion, import, Regions, custom key stores.
	operation{name: "EnableKeyRotation", refuses: rotationOp, serve: handle((*Service).enableKeyRotation)},
	operation{name: "DisableKeyRotation", refuses: rotationOp, serve: handle((*Service).disableKeyRotation)},
	operation{name: "GetKeyRotationStatus", refuses: anyState, readOnly: true, serve: handle((*Service).getKeyRotationStatus)},
	operation{name: "RotateKeyOnDemand", refuses: cryptoOp, serve: handle((*Service).rotateKeyOnDemand)},
	operation{name: "ListKeyRotations", refuses: anyState, readOnly: true, serve: handle((*Service).listKeyRotations)},
	operation{name: "ScheduleKeyDeletion", refuses: "..P...G", serve: handle((*Service).scheduleKeyDeletion)},
	operation{name: "CancelKeyDeletion", refuses: "NN.NNNN", serve: handle((*Service).cancelKeyDeletion)},
	operation{name: "GetKeyLastUsage", refuses: anyState, readOnly: true, serve: handle((*Service).getKeyLastUsage)},
	operation{name: "GetParametersForImport", refuses: "..P.UCG", origin: kmsapi.OriginTypeExternal, readOnly: true, serve: handle((*Service).getParametersForImport)},
	operation{name: "ImportKeyMaterial", refuses: "..P.UC.", origin: kmsapi.OriginTypeExternal, serve: handle((*Service).importKeyMaterial)},
	operation{name: "DeleteImportedKeyMaterial", refuses: ".....CG", origin: kmsapi.OriginTypeExternal, serve: handle((*Service).deleteImportedKeyMaterial)},
	operation{name: "ReplicateKey", refuses: ".DPIUCG", serve: handle((*Service).replicateKey)},
	operation{name: "UpdatePrimaryRegion", refuses: ".DPIUC.", serve: handle((*Service).updatePrimaryRegion)},
	operation{name: "CreateCustomKeyStore", serve: handle((*Service).createCustomKeyStore)},
	operation{name: "ConnectCustomKeyStore", serve: handle((*Service).connectCustomKeyStore)},
	operation{name: "DisconnectCustomKeyStore", serve: handle((*Service).disconnectCustomKeyStore)},
	operation{name: "DescribeCustomKeyStores", readOnly: true, serve: handle((*Service).describeCustomKeyStores)},
	operation{name: "UpdateCustomKeyStore", serve: handle((*Service).updateCustomKeyStore)},
	operation{name: "DeleteCustomKeyStore", serve: handle((*Service).deleteCustomKeyStore)},

	// Symmetric and RSA encryption.
	operation{name: "Encrypt", aliases: true, refuses: cryptoOp, uses: true, readOnly: true, serve: handle((*Service).encrypt)},
	operation{name: "Decrypt", aliases: true, refuses: cryptoOp, uses: true, readOnly: true, serve: handle((*Service).decrypt)},
	operation{name: "ReEncrypt", aliases: true, refuses: cryptoOp, uses: true, readOnly: true, serve: handle((*Service).reEncrypt)},

	// Data keys.
	operation{name: "GenerateDataKey", aliases: true, refuses: cryptoOp, uses: true, readOnly: true, serve: handle((*Service).generateDataKey)},
	operation{name: "GenerateDataKeyWithoutPlaintext", aliases: true, refuses: cryptoOp, uses: true, readOnly: true, serve: handle((*Service).generateDataKeyWithoutPlaintext)},
	operation{name: "GenerateDataKeyPair", aliases: true, refuses: cryptoOp, uses: true, readOnly: true, serve: handle((*Service).generateDataKeyPair)},
	operation{name: "GenerateDataKeyPairWithoutPlaintext", aliases: true, refuses: cryptoOp, uses: true, readOnly: true, serve: handle((*Service).generateDataKeyPairWithoutPlaintext)},
	operation{name: "GenerateRandom", readOnly: true, serve: handle((*Service).generateRandom)},

	// Signatures, MACs, key agreement and encapsulation.
	operation{name: "Sign", aliases: true, refuses: cryptoOp, uses: true, readOnly: true, serve: handle((*Service).sign)},
	operation{name: "Verify", aliases: true, refuses: cryptoOp, uses: true, readOnly: true, serve: handle((*Service).verify)},
	operation{name: "GenerateMac", aliases: true, refuses: cryptoOp, uses: true, readOnly: true, serve: handle((*Service).generateMac)},
	operation{name: "VerifyMac", aliases: true, refuses: cryptoOp, uses: true, readOnly: true, serve: handle((*Service).verifyMac)},
	operation{name: "DeriveSharedSecret", aliases: true, refuses: cryptoOp, uses: true, readOnly: true, serve: handle((*Service).deriveSharedSecret)},
	operation{name: "Encapsulate", aliases: true, refuses: cryptoOp, uses: true, readOnly: true, serve: handle((*Service).encapsulate)},
	operation{name: "Decapsulate", aliases: true, refuses: cryptoOp, uses: true, readOnly: true, serve: handle((*Service).decapsulate)},
)

func table(rows ...operation) map[string]*operation {
	m := make(map[string]*operation, len(rows))
	for i := range rows {
		m[rows[i].name] = &rows[i]
	}
	return m
}
