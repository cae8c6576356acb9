package store

import (
	"time"

	"cmkd/backends"
	"cmkd/daemon/keys"
)

// Rows are immutable once stored: a reader may keep a pointer for as long as
// it likes, and a writer stores a changed copy. Each row is one JSON document
// in the table of its kind; the fields that identify it are columns too.

// Key is a CMK as one Region sees it. Multi-Region keys have a row in each
// Region under the same ID.
type Key struct {
	Region      string // such as "us-east-1"
	ID          string // UUID, or "mrk-" and 32 hexadecimal digits
	Description string `json:",omitempty"` // at most 8,192 bytes
	Spec        backends.KeySpec
	Usage       backends.Usage
	Origin      keys.Origin  // AWS_KMS, EXTERNAL or AWS_CLOUDHSM
	Manager     keys.Manager // CUSTOMER or AWS
	State       keys.State   // Unavailable is never stored, it is found out
	Token       string       // name of the configured token that holds it
	Created     time.Time
	Creator     string // principal ARN

	CustomKeyStoreID string `json:",omitempty"`
	// Deletion is when the material may be destroyed (State PendingDeletion).
	Deletion time.Time `json:",omitzero"`
	// PendingWindowDays is the waiting period asked for, 7 to 30 days; of a
	// multi-Region primary it starts when the last replica is gone.
	PendingWindowDays int `json:",omitempty"`
	// PrimaryRegion is set on multi-Region keys; the row whose Region it is
	// is the primary.
	PrimaryRegion string `json:",omitempty"`
	Policy        string // key policy document, JSON, at most 32 KiB
	Tags          []Tag  `json:",omitempty"` // in the order first tagged
	// PublicKey is the DER SubjectPublicKeyInfo of an asymmetric key.
	PublicKey []byte `json:",omitempty"`

	// RotationPeriodDays is 90 to 2,560, 0 while automatic rotation is off.
	RotationPeriodDays int       `json:",omitempty"`
	NextRotation       time.Time `json:",omitzero"`
	// OnDemandRotations counts RotateKeyOnDemand, at most 25.
	OnDemandRotations int `json:",omitempty"`

	// ExpirationModel and ValidTo are of the imported material.
	ExpirationModel keys.Expiration `json:",omitempty"`
	ValidTo         time.Time       `json:",omitzero"`
}

// Tag is one tag of a key.
type Tag struct {
	Key   string // at most 128 characters
	Value string // at most 256 characters
}

// Version is one key material of a CMK: an object of its own in the token.
// The replicas of a multi-Region key share their versions.
type Version struct {
	KeyID  string
	Number int    // from 1; the current version has the State CURRENT
	CKAID  []byte // CKA_ID, 16 bytes
	// MaterialID is KeyMaterialId, 64 lower-case hexadecimal digits.
	MaterialID string
	// State is CURRENT, NON_CURRENT, PENDING_ROTATION or [keys.Discarded].
	State   keys.MaterialState
	Created time.Time
	// Rotated is when it became current by rotation, zero for the first.
	Rotated time.Time `json:",omitzero"`
	// RotationType is AUTOMATIC or ON_DEMAND, "" for the first version.
	RotationType keys.Rotation `json:",omitempty"`
	// Encryptions is the number of encryptions reserved so far: NIST SP
	// 800-38D allows 2^32 with random IVs.
	Encryptions uint64 `json:",omitempty"`

	// Imported material.
	Imported    bool             `json:",omitempty"`
	ImportState keys.ImportState `json:",omitempty"` // IMPORTED or PENDING_IMPORT
	Description string           `json:",omitempty"`
	// CheckValue tells whether material imported again is the same.
	CheckValue      []byte          `json:",omitempty"`
	ExpirationModel keys.Expiration `json:",omitempty"`
	ValidTo         time.Time       `json:",omitzero"`
}

// Alias is a name for a key.
type Alias struct {
	Region  string
	Name    string // with the prefix "alias/"
	KeyID   string
	Created time.Time
	Updated time.Time
}

// Grant allows operations on one key to one principal.
type Grant struct {
	Region     string
	KeyID      string
	ID         string // 64 hexadecimal digits
	Name       string `json:",omitempty"`
	Grantee    string // principal ARN or service principal
	Retiring   string `json:",omitempty"`
	Issuer     string // account root ARN of the key, or the caller's
	Operations []string
	// ContextEquals and ContextSubset are the constraints, nil: none. An empty
	// one is a constraint too, so it must not be omitted: Equals of nothing
	// allows only calls without an encryption context.
	ContextEquals     map[string]string `json:",omitzero"`
	ContextSubset     map[string]string `json:",omitzero"`
	GranteeIsService  bool              `json:",omitempty"`
	RetiringIsService bool              `json:",omitempty"`
	SourceArn         string            `json:",omitempty"`
	Created           time.Time
}

// Intent explains an object in the token that no version row names yet, or
// still names: it is written before the token is touched and removed with the
// transaction that completes the work.
type Intent struct {
	CKAID   []byte
	Action  string // "create" or "destroy"
	Region  string `json:",omitempty"` // of the CMK; of a system key none
	KeyID   string // of the CMK, or the purpose of a system key
	Version int
	Token   string
	Spec    backends.KeySpec
	Usage   backends.Usage
	// Route is the key spec whose backend holds the object, if it is not Spec:
	// the wrapping pair of an import lives with the kind of key imported.
	Route    backends.KeySpec `json:",omitempty"`
	Imported bool             `json:",omitempty"`
	// Rotation is the type of the rotation under way, AUTOMATIC or ON_DEMAND; empty
	// if it is none.
	Rotation keys.Rotation `json:",omitempty"`
	// Node is the daemon that works on it, where several take turns.
	Node    string `json:",omitempty"`
	Created time.Time
}

// SystemKey is a key of the daemon's own.
type SystemKey struct {
	Token     string // name of the configured token that holds it
	Purpose   string // "wrapping", "state", "audit"
	Version   int    // from 1; the highest is the current one
	CKAID     []byte
	PublicKey []byte `json:",omitempty"`
	// Lineage is of state keys from their second version on; see [Head].
	Lineage string `json:",omitempty"`
	Created time.Time
}

// ImportParameters are what GetParametersForImport gave out: an RSA pair in
// the token that serves one import.
type ImportParameters struct {
	Region       string
	KeyID        string
	CKAID        []byte             // of the wrapping pair
	Spec         backends.KeySpec   // WrappingKeySpec
	Algorithm    backends.Algorithm // AlgorithmSpec
	Token        string
	TokenHash    []byte // SHA-256 of the import token
	ValidTo      time.Time
	MaterialWrap []byte `json:",omitempty"` // DER SubjectPublicKeyInfo of the pair
}

// CustomKeyStore is a further token that clients manage as a custom key store.
type CustomKeyStore struct {
	Region          string
	ID              string // "cks-" and 17 hexadecimal digits
	Name            string
	Token           string // name of the configured token (CloudHsmClusterId)
	ClusterID       string
	TrustAnchor     string               `json:",omitempty"`
	ConnectionState keys.ConnectionState // CONNECTED, DISCONNECTED, FAILED, …
	ConnectionError keys.ConnectionError `json:",omitempty"`
	Created         time.Time
}

// Usage is the last use of a key (GetKeyLastUsage). It is written behind the
// calls, at most once a minute for a key.
type Usage struct {
	Region    string
	KeyID     string
	Operation keys.Operation
	Time      time.Time
	RequestID string
	Principal string
	EventID   string `json:",omitempty"`
}

// Setting is a fact about the database: "account", "clock" and the like.
type Setting struct {
	Name  string
	Value string
}
