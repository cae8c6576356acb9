package backends

// Secret is a message with bytes that nobody should find in memory afterwards: plaintexts,
// messages, data keys and shared secrets. Wipe overwrites them. Whoever made a message
// wipes it when it has served, and whoever got an answer wipes that.
type Secret interface{ Wipe() }

// Wipe implements [Secret].
func (m *EncryptRequest) Wipe() { clear(m.Plaintext) }

// Wipe implements [Secret].
func (m *DecryptAnswer) Wipe() { clear(m.Plaintext) }

// Wipe implements [Secret].
func (m *GenerateDataKeyAnswer) Wipe() { clear(m.Plaintext) }

// Wipe implements [Secret].
func (m *OpenDataKeyAnswer) Wipe() { clear(m.Plaintext) }

// Wipe implements [Secret].
func (m *GenerateRandomAnswer) Wipe() { clear(m.Plaintext) }

// Wipe implements [Secret].
func (m *SignRequest) Wipe() { clear(m.Message) }

// Wipe implements [Secret].
func (m *VerifyRequest) Wipe() { clear(m.Message) }

// Wipe implements [Secret].
func (m *MACRequest) Wipe() { clear(m.Message) }

// Wipe implements [Secret].
func (m *VerifyMACRequest) Wipe() { clear(m.Message) }

// Wipe implements [Secret].
func (m *DeriveSharedSecretAnswer) Wipe() { clear(m.SharedSecret) }

// Wipe implements [Secret].
func (m *EncapsulateAnswer) Wipe() { clear(m.SharedSecret) }

// Wipe implements [Secret].
func (m *DecapsulateAnswer) Wipe() { clear(m.SharedSecret) }
