package der

import (
	"crypto/rsa"
	"math/big"
)

// The primes of the RSA-2048 key that OAEP is probed with. It was made for
// this purpose, only ever wraps a public constant, and protects nothing.
const (
	probePrimeP = "" +
		"e31ee2777cfe0c6252533f169b7789f2f790d66379f86201b68de922ec7320f0" +
		"43442ee9b3c2d3b1e37407970446275a994a4febda58bd2ee103dc911c9c601a" +
		"c1b9983e5e1ae6adcfe00ee2accc888b325f20f690f6a922031a97c82f72b21d" +
		"3a28418eb342e76609ce8a2088cdbabe413c1d9586dc8fe3e3aafc8c9dc3dcc7"
	probePrimeQ = "" +
		"e04facfc4a69fe4038c873b30efa93f8518bd3d86fa301ad54c8098a4be5b3d0" +
		"800a75f6c032b66e9b9d90c7df7bf9674102242c7bc26312265bb97fe58e5e50" +
		"ca51528f25a44bfe67593ee3e1e7129ec246bdead36768d73c10bcc907d7ed31" +
		"aa422a45dce99c785cbbf6b0cfd7e6998821a7b610af565573dd3625a14904c1"
)

// KnownRSA is the key of the two primes above.
func KnownRSA() *rsa.PrivateKey {
	p, _ := new(big.Int).SetString(probePrimeP, 16)
	q, _ := new(big.Int).SetString(probePrimeQ, 16)
	one := big.NewInt(1)
	phi := new(big.Int).Mul(new(big.Int).Sub(p, one), new(big.Int).Sub(q, one))
	k := &rsa.PrivateKey{
		PublicKey: rsa.PublicKey{N: new(big.Int).Mul(p, q), E: 65537},
		D:         new(big.Int).ModInverse(big.NewInt(65537), phi),
		Primes:    []*big.Int{p, q},
	}
	k.Precompute()
	return k
}
