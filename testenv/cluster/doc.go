// Package cluster tests the product with its database in etcd: what becomes of a daemon
// whose etcd stops, comes back or was changed, and what several daemons promise that have one
// database.
package cluster
