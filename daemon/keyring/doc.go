// Package keyring is the keys in the tokens over time: made and destroyed as intents
// explain, missing, unsafe or double, and how often each has encrypted.
package keyring
