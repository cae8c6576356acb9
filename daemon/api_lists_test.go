package daemon_test

// apiTests are the tests of a daemon in its preset form.
var apiTests = []apiTest{
	{"States", testStates},
	{"Validation", testValidation},
	{"ErrorBodies", testErrorBodies},
	{"Members", testMembers},
	{"LongRequests", testLongRequests},
	{"Identifiers", testIdentifiers},
	{"Management", testManagement},
	{"AnswersByARN", testAnswersByARN},
	{"Aliases", testAliases},
	{"Tags", testTags},
	{"Descriptions", testDescriptions},
	{"Specs", testSpecs},
	{"Signing", testSigning},
	{"MACs", testMACs},
	{"WrongUsage", testWrongUsage},
	{"EncryptionContext", testEncryptionContext},
	{"OAEP", testOAEP},
	{"Decrypt", testDecrypt},
	{"ReEncrypt", testReEncrypt},
	{"DryRun", testDryRun},
	{"Recipients", testRecipients},
	{"Agreement", testAgreement},
	{"Random", testRandom},
	{"AlteredBlobs", testAlteredBlobs},
	{"AlteredOAEP", testAlteredOAEP},
	{"SignatureForms", testSignatureForms},
	{"PeerForms", testPeerForms},
	{"Paging", testPaging},
	{"Grants", testGrants},
	{"Policies", testPolicies},
	{"Deletion", testDeletion},
	{"Rotation", testRotation},
	{"RotationLimit", testRotationLimit},
	{"MultiRegion", testMultiRegion},
	{"Imports", testImports},
	{"ImportedMAC", testImportedMAC},
	{"AWSCLI", testAWSCLI},
}

// apiPlaintextTests are those of a daemon with plaintext_data_keys.
var apiPlaintextTests = []apiTest{
	{"DataKeys", testPlaintextDataKeys},
	{"Pairs", testPlaintextPairs},
	{"ReEncrypt", testPlaintextReEncrypt},
}
