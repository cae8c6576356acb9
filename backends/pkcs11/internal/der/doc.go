// Package der has what is known of keys and signatures without a token: the kinds of key
// pair, the encodings of their public and private keys, the signature schemes, and the
// checks of numbers that come from outside. It calls no module.
package der
