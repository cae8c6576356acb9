// Package kmsapi is the AWS KMS API on the wire: its types, their validation, its errors and its HTTP framing.
//
// The protocol is AWS JSON 1.1: every call is POST / with the header X-Amz-Target: TrentService.<Operation>
// (https://smithy.io/2.0/aws/protocols/aws-json-1_1-protocol.html).
// The files zz_*.go are generated from model.json, the API model of KMS 2014-11-01 without its prose. It differs
// from the original in four places: Decapsulate lists InvalidCiphertextException, which its documentation promises,
// KeyIdType has the pattern that the service asks for, Limit of ListAliases, ListGrants, ListRetirableGrants (100) and
// ListResourceTags (50) has the maximum of the API reference, and KeyEncryptionMechanism has RSAES_OAEP_SHA_1, an
// extension for tokens that can do OAEP with SHA-1 only.
//
// A member that is absent, or null, has the zero value of its Go type. That loses nothing: every optional
// member of a request either refuses its zero value (a minimum, a pattern, an enum) or means the same with it.
package kmsapi

//go:generate go run ./internal/gen
