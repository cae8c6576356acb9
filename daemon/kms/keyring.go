package kms

// Keyring is the keys in the tokens over time: how they are made and destroyed, what is
// known of objects that are missing, unsafe or double, and the counts of encryptions.
type Keyring struct {
	*Journal
	token    string            // that holds keys of no custom key store
	clusters map[string]string // further tokens, by cluster ID
	router   Router
	// made is called when a key was made: the token makes keys, and the database takes
	// rows. It is set before the first call.
	made func()

	counters   counters
	working    working
	late       late
	absences   *absences
	unsafes    materialSet
	duplicates duplicates
	clock      clock
}
