// Package cluster tests the product with its database in etcd: what becomes of a daemon
// whose etcd stops, comes back or was changed, and that a prefix has one daemon at a time.
package cluster
