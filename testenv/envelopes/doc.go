// Package envelopes tests sealed files as those who keep them for years need them: that
// other implementations of the format open them and are opened (javascript and golang are
// programs of the AWS Encryption SDK), that a file is whole whatever ends cmkctl, and that
// sealing is as fast as the cipher lets it be.
package envelopes
