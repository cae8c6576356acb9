package kmsapi

// Operation describes one operation of the API.
type Operation struct {
	Name      string
	NewInput  func() Input
	NewOutput func() Output
	// Errors are the codes that the model lists for the operation, beside those that any operation may answer.
	Errors []string
}

// Input is the input of an operation.
type Input interface {
	// Decode reads a request body into the input; see the generated types.
	Decode(body []byte) error
	// Wipe overwrites the members that the model calls sensitive, if they are blobs.
	Wipe()
}

// Output is the output of an operation.
type Output interface {
	// AppendJSON appends the response body to b.
	AppendJSON(b []byte) []byte
	// Wipe is that of [Input]. So an output shares such members with nothing that lives on.
	Wipe()
}
