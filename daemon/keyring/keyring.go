package keyring

import (
	"sync"

	"cmkd/daemon/journal"
)

// Keyring is the keys in the tokens over time: how they are made and destroyed, what is
// known of objects that are missing, unsafe or double, and the counts of encryptions.
type Keyring struct {
	*journal.Journal
	Token    string            // that holds keys of no custom key store
	Clusters map[string]string // further tokens, by cluster ID
	Router   Router
	// Generated is called when a key was made: the token makes keys, and the database takes
	// rows. It is set before the first call.
	Generated func()

	Counters   counters
	Working    working
	Late       late
	Absences   *absences
	Unsafes    materialSet
	duplicates duplicates
	unrouted   sync.Map // tokens of intents that are not in the configuration, once the log says so
	Clock      clock
}

// New makes a keyring. token holds the keys of no custom key store, clusters names further
// tokens by the cluster IDs by which clients know them.
func New(j *journal.Journal, token string, clusters map[string]string, router Router) *Keyring {
	return &Keyring{Journal: j, Token: token, Clusters: clusters, Router: newCheckedRouter(router), Clock: newClock(), Absences: newAbsences()}
}
