// Package control is the gRPC service through which the daemon opens a plugin
// and asks for its health. It is generated from control.proto.
package control

//go:generate go run ./internal/gen
