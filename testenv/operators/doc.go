// Package operators holds the tests of what operators and monitoring get: the endpoints
// beside the API, their records, refusals, and metrics.
package operators
