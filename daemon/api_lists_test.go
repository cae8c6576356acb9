package daemon_test

// apiTests are the tests of a daemon in its preset form.
var apiTests = []apiTest{
	{"States", testStates},
}

// apiPlaintextTests are those of a daemon with plaintext_data_keys.
var apiPlaintextTests = []apiTest{}
