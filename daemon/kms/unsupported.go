package kms

// unsupported are the operations of the API model that have no row, with what
// the client is told. A test holds this list and the table against the model.
var unsupported = map[string]string{}
