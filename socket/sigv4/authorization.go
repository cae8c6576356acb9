package sigv4

import (
	"encoding/hex"
	"regexp"
	"slices"
	"strings"
)

// authorization is a parsed Authorization header:
//
//	AWS4-HMAC-SHA256 Credential=ID/20060102/us-east-1/kms/aws4_request, SignedHeaders=host;x-amz-date, Signature=hex
//
// The commas may lack their spaces.
type authorization struct {
	accessKeyID   string
	date          string // YYYYMMDD
	region        string
	service       string
	signedHeaders []string // lower case, sorted
	signature     []byte
}

var (
	accessKeyPattern = regexp.MustCompile(`^\w{1,128}$`)
	datePattern      = regexp.MustCompile(`^[0-9]{8}$`)
	regionPattern    = regexp.MustCompile(`^[a-z0-9-]{1,32}$`)
	headerPattern    = regexp.MustCompile("^[a-z0-9!#$%&'*+.^_`|~-]{1,64}$") // RFC 9110 token
)

func parseAuthorization(headers []string) (*authorization, error) {
	if len(headers) == 0 || headers[0] == "" {
		return nil, errorf(codeMissing, "Missing Authentication Token")
	}
	if len(headers) > 1 {
		return nil, errorf(codeIncomplete, "Authorization header must be given once.")
	}
	scheme, rest, _ := strings.Cut(headers[0], " ")
	if scheme != algorithm {
		return nil, errorf(codeMissing, "Missing Authentication Token")
	}
	params, err := parseParams(rest)
	if err != nil {
		return nil, err
	}
	return params.authorization()
}

// params are the three parameters as written.
type params struct{ credential, signedHeaders, signature string }

func parseParams(s string) (*params, error) {
	var p params
	fields := map[string]*string{"Credential": &p.credential, "SignedHeaders": &p.signedHeaders, "Signature": &p.signature}
	for part := range strings.SplitSeq(s, ",") {
		name, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		field := fields[name]
		if !ok || field == nil || *field != "" {
			return nil, errorf(codeIncomplete, "Authorization header is not of the form 'Credential=..., SignedHeaders=..., Signature=...'.")
		}
		*field = value
	}
	var missing []string
	for _, name := range []string{"Credential", "Signature", "SignedHeaders"} {
		if *fields[name] == "" {
			missing = append(missing, "Authorization header requires '"+name+"' parameter.")
		}
	}
	if missing != nil {
		return nil, errorf(codeIncomplete, "%s", strings.Join(missing, " "))
	}
	return &p, nil
}

func (p *params) authorization() (*authorization, error) {
	scope := strings.Split(p.credential, "/")
	if len(scope) != 5 || scope[4] != terminator ||
		!accessKeyPattern.MatchString(scope[0]) || !datePattern.MatchString(scope[1]) || !regionPattern.MatchString(scope[2]) {
		return nil, errorf(codeIncomplete, "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term.")
	}
	signature, err := hex.DecodeString(p.signature)
	if err != nil || len(signature) != 32 {
		return nil, errorf(codeIncomplete, "Signature must be 64 hexadecimal digits.")
	}
	headers := strings.Split(p.signedHeaders, ";")
	for _, h := range headers {
		if !headerPattern.MatchString(h) {
			return nil, errorf(codeIncomplete, "SignedHeaders must be lower-case header names separated by semicolons.")
		}
	}
	if !slices.IsSorted(headers) || len(slices.Compact(slices.Clone(headers))) != len(headers) {
		return nil, errorf(codeIncomplete, "SignedHeaders must be sorted and without repetition.")
	}
	return &authorization{
		accessKeyID: scope[0], date: scope[1], region: scope[2], service: scope[3],
		signedHeaders: headers, signature: signature,
	}, nil
}

// quotable cuts what a client sent to what an error text can hold.
func quotable(s string) string {
	clean := func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}
	return strings.Map(clean, s[:min(len(s), 64)])
}
