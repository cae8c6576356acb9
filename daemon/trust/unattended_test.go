package trust

import "testing"

func TestUnattended(t *testing.T) {
	t.Parallel()
	const (
		mismatch = `{"eventType":"AwsServiceEvent","eventSource":"kms.amazonaws.com","eventName":"StateMismatch"}`
		refused  = `{"eventType":"AwsApiCall","eventSource":"kms.amazonaws.com","eventName":"Encrypt","errorCode":"KMSInternalException"}`
		looked   = `{"eventType":"AwsApiCall","eventSource":"cmkd","eventName":"VerifyAuditTrail","readOnly":true}`
	)
	for name, c := range map[string]struct {
		line        string
		first, then bool
	}{
		"the mismatch":              {mismatch, true, true},
		"a call that was refused":   {refused, false, true},
		"a call that used a key":    {`{"eventType":"AwsApiCall","eventSource":"kms.amazonaws.com","eventName":"Decrypt","readOnly":true}`, false, false},
		"one that looked":           {`{"eventType":"AwsApiCall","eventSource":"kms.amazonaws.com","eventName":"DescribeKey","readOnly":true}`, false, true},
		"one that nobody knows":     {`{"eventType":"AwsApiCall","eventSource":"kms.amazonaws.com","eventName":"Look","readOnly":true}`, false, false},
		"a call without a type":     {`{"eventName":"Decrypt"}`, false, false},
		"an error that is empty":    {`{"eventName":"Decrypt","errorCode":""}`, false, false},
		"no JSON":                   {`{"errorCode":"x"`, false, false},
		"an automatic change":       {`{"eventType":"AwsServiceEvent","eventSource":"kms.amazonaws.com","eventName":"DeleteKey"}`, false, false},
		"one that failed":           {`{"eventType":"AwsServiceEvent","eventSource":"kms.amazonaws.com","eventName":"DeleteKey","errorCode":"x"}`, false, false},
		"a restored database":       {`{"eventType":"AwsServiceEvent","eventSource":"kms.amazonaws.com","eventName":"RestoreDatabase"}`, false, false},
		"a retraction":              {`{"eventType":"AwsServiceEvent","eventSource":"kms.amazonaws.com","eventName":"ChangeNotCommitted"}`, false, false},
		"a call to be retracted":    {`{"eventType":"AwsApiCall","eventSource":"kms.amazonaws.com","eventName":"DisableKey","errorCode":"x","additionalEventData":{"databaseSequence":7}}`, false, false},
		"one that retracts":         {`{"eventType":"AwsApiCall","eventSource":"kms.amazonaws.com","eventName":"DisableKey","errorCode":"x","additionalEventData":{"details":{"notCommitted":"id"}}}`, false, false},
		"a refusal without a type":  {`{"eventSource":"kms.amazonaws.com","eventName":"Encrypt","errorCode":"x"}`, false, false},
		"one of another source":     {`{"eventType":"AwsApiCall","eventSource":"x","eventName":"Encrypt","errorCode":"x"}`, false, false},
		"that it verified":          {`{"eventType":"AwsServiceEvent","eventSource":"kms.amazonaws.com","eventName":"StateVerified"}`, false, true},
		"an operator who looks":     {looked, false, true},
		"one who reloads":           {`{"eventType":"AwsApiCall","eventSource":"cmkd","eventName":"ReloadConfiguration"}`, false, true},
		"one who accepts":           {`{"eventType":"AwsApiCall","eventSource":"cmkd","eventName":"AcceptState"}`, false, false},
		"one who is refused":        {`{"eventType":"AwsApiCall","eventSource":"cmkd","eventName":"PruneTrail","errorCode":"Unverified"}`, false, true},
		"one who prunes":            {`{"eventType":"AwsApiCall","eventSource":"cmkd","eventName":"PruneTrail"}`, false, false},
		"a mismatch by somebody":    {`{"eventType":"AwsApiCall","eventSource":"kms.amazonaws.com","eventName":"StateMismatch"}`, false, false},
		"a mismatch of another one": {`{"eventType":"AwsServiceEvent","eventSource":"cmkd","eventName":"StateMismatch"}`, false, false},
	} {
		if got := unattended([]byte(c.line), true); got != c.first {
			t.Errorf("%s comes first: %t", name, got)
		}
		if got := unattended([]byte(c.line), false); got != c.then {
			t.Errorf("%s: %t", name, got)
		}
	}
}
