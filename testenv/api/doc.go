// Package api holds the tests of the KMS API over the real socket with the AWS SDK: every
// operation, key spec, state, identifier and error of docs/aws-compatibility.md.
package api
