// Package keys is the commands of cmkctl that manage keys: their life, aliases, grants, policies and
// custom key stores.
package keys
