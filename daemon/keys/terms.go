// Package keys has the terms of keys that the packages of the daemon share: their
// states and origins, their ARNs, what a key spec allows, and the actions of AWS KMS
// with what each of them is about. It decides nothing and stores nothing.
package keys

import "cmkd/socket/kmsapi"

// The terms of the API model are those of rows and decisions too, under names that say
// what they are of: nothing converts them between the wire and the database. Key specs,
// usages and algorithms, which go on to the plugins, are those of package backends.
type (
	// State is the state of a CMK.
	State = kmsapi.KeyState
	// Origin says where key material comes from.
	Origin = kmsapi.OriginType
	// Manager says who manages a CMK: the customer, or the service for its users.
	Manager = kmsapi.KeyManagerType
	// MaterialState is the state of one key material of a CMK.
	MaterialState = kmsapi.KeyMaterialState
	// ImportState says whether imported material is in its token.
	ImportState = kmsapi.ImportState
	// Expiration says whether imported material expires.
	Expiration = kmsapi.ExpirationModelType
	// Rotation is the kind of a rotation.
	Rotation = kmsapi.RotationType
	// ConnectionState is that of a custom key store.
	ConnectionState = kmsapi.ConnectionStateType
	// ConnectionError says why a custom key store is not connected.
	ConnectionError = kmsapi.ConnectionErrorCodeType
	// Operation is an operation that counts as a use of a key.
	Operation = kmsapi.KeyLastUsageTrackingOperation
)

// Discarded is the state of imported material that was deleted or expired before it
// ever was current. No answer has it. The material belongs to the key no more, and
// other material may be imported in its place. Its row stays so that the same material,
// imported again, has the same KeyMaterialId.
const Discarded MaterialState = "DISCARDED"

// Current is the state of the material that new ciphertexts are made with.
const Current = kmsapi.KeyMaterialStateCurrent
