package kms_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"cmkd/socket/kmsapi"
	"cmkd/testenv/memory"
)

func (s *scene) pick(of ...string) string { return of[s.IntN(len(of))] }

// rarely is the first of two once in fifteen times.
func (s *scene) rarely(seldom, mostly string) string {
	if s.IntN(15) == 0 {
		return seldom
	}
	return mostly
}

// hostile is what somebody may send where text is expected.
func (s *scene) hostile() string {
	n := s.pick("0", "1", "20", "300", "3000", "40000")
	length, _ := strconv.Atoi(n)
	return strings.Repeat(s.pick("x", "\x7f", "\xff", "\x01", `"`, "\\", "é", "\u2028", "😀", "</script>", "\n"), length)
}

// body is a request for the operation: of the right form for the most part.
func (s *scene) body(op kmsapi.Operation) []byte {
	switch s.IntN(40) {
	case 0:
		return []byte(s.hostile())
	case 1:
		return []byte(`{"KeyId":"` + strings.Repeat(`\u007f`, 100_000) + `"}`)
	case 2:
		return fmt.Appendf(nil, `{"KeyId":%q,"GranteePrincipal":%q,"Operations":["Encrypt"%s]}`,
			s.name("key"), s.callers[2].Principal.ARN, strings.Repeat(`,"Encrypt"`, 10_500))
	}
	in := s.object(reflect.TypeOf(op.NewInput()).Elem())
	if op.Name == "CreateKey" && s.IntN(5) > 0 { // most of them make a key
		for name, value := range map[string]any{"KeySpec": "SYMMETRIC_DEFAULT", "KeyUsage": "ENCRYPT_DECRYPT", "Origin": s.pick("AWS_KMS", "EXTERNAL")} {
			in[name] = value
		}
		delete(in, "CustomKeyStoreId")
	}
	text, err := json.Marshal(in)
	if err != nil {
		s.t.Fatal(err)
	}
	return text
}

func (s *scene) object(shape reflect.Type) map[string]any {
	out := map[string]any{}
	for i := range shape.NumField() {
		f := shape.Field(i)
		always := strings.HasSuffix(f.Name, "Id") && !strings.HasPrefix(f.Name, "Xks") && f.Name != "CustomKeyStoreId" || f.Name == "Policy"
		if !f.IsExported() || f.Name == "DryRun" && s.IntN(8) > 0 || !always && s.IntN(10) == 0 || strings.HasPrefix(f.Name, "Xks") ||
			(f.Name == "Constraints" || strings.HasSuffix(f.Name, "ServicePrincipal")) && s.IntN(8) > 0 {
			continue
		}
		if v := s.value(f.Name, f.Type); v != nil {
			out[f.Name] = v
		}
	}
	return out
}

// value is one for a member: by its name, or by its type.
func (s *scene) value(name string, shape reflect.Type) any {
	if s.IntN(40) == 0 && shape.Kind() == reflect.String {
		return strings.ToValidUTF8(s.hostile(), "?")
	}
	named := func(kind string) any {
		if n := s.name(kind); n != "" {
			return n
		}
		return nil
	}
	switch name {
	case "KeyId", "TargetKeyId", "SourceKeyId", "DestinationKeyId":
		return s.name("key")
	case "AliasName":
		return "alias/" + s.pick("a", "b", "c", "d", "aws/x", "e/f")
	case "GrantId":
		return named("grant")
	case "GrantToken":
		return named("token")
	case "GranteePrincipal", "RetiringPrincipal":
		return s.callers[s.IntN(len(s.callers))].Principal.ARN
	case "CustomKeyStoreId":
		return named("store")
	case "CloudHsmClusterId":
		return s.pick("cluster-234567234567", "cluster-777777777777")
	case "ReplicaRegion", "PrimaryRegion":
		return s.pick("us-east-1", otherRegion)
	case "Policy":
		sid := strings.ToValidUTF8(s.hostile(), "?")
		text, _ := json.Marshal(map[string]any{"Version": "2012-10-17", "Statement": []any{map[string]any{
			"Sid": sid[:min(len(sid), 30_000)], "Effect": "Allow", "Action": "kms:*", "Resource": "*",
			"Principal": map[string]any{"AWS": s.pick("*", s.callers[0].Principal.ARN)},
		}}})
		return string(text)
	case "PolicyName":
		return s.rarely("other", "default")
	case "CiphertextBlob":
		return named("blob")
	case "ImportToken":
		return named("import")
	case "EncryptedKeyMaterial":
		material := make([]byte, 32)
		_, _ = rand.Read(material)
		sealed, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, &memory.Pair().PublicKey, material, nil)
		if err != nil {
			s.t.Fatal(err)
		}
		return sealed
	case "WrappingAlgorithm":
		return "RSAES_OAEP_SHA_256"
	case "WrappingKeySpec":
		return "RSA_2048"
	case "ExpirationModel":
		return "KEY_MATERIAL_DOES_NOT_EXPIRE"
	case "TagKey", "TagValue":
		return s.pick("a", "b", "c") + strings.ToValidUTF8(s.rarely(s.hostile(), ""), "?")
	case "ValidTo", "Marker", "GrantTokens", "Recipient", "CustomerMasterKeySpec", "KeyMaterialId", "ImportType":
		return nil
	case "KeySpec":
		return s.pick("SYMMETRIC_DEFAULT", "SYMMETRIC_DEFAULT", "HMAC_256", "RSA_2048")
	case "KeyUsage":
		return s.pick("ENCRYPT_DECRYPT", "ENCRYPT_DECRYPT", "GENERATE_VERIFY_MAC")
	case "Origin":
		return s.pick("AWS_KMS", "AWS_KMS", "EXTERNAL", "AWS_CLOUDHSM")
	case "PendingWindowInDays":
		return 7 + s.IntN(24)
	case "RotationPeriodInDays":
		return 90 + s.IntN(2000)
	case "CustomKeyStoreName", "NewCustomKeyStoreName":
		return "store-" + s.pick("a", "b", "c")
	case "BypassPolicyLockoutSafetyCheck":
		return true
	}
	return s.typed(shape)
}

func (s *scene) typed(shape reflect.Type) any {
	if values, ok := shape.MethodByName("Values"); ok && shape.Kind() == reflect.String {
		all := values.Func.Call([]reflect.Value{reflect.Zero(shape)})[0]
		return all.Index(s.IntN(all.Len())).String()
	}
	switch {
	case shape == reflect.TypeFor[time.Time]():
		return s.now.Unix()
	case shape.Kind() == reflect.Pointer:
		return s.object(shape.Elem())
	case shape.Kind() == reflect.Struct:
		return s.object(shape)
	case shape.Kind() == reflect.String:
		return s.pick("a", "value", "b c", strings.Repeat("\x7f", 200))
	case shape.Kind() == reflect.Bool:
		return s.IntN(2) == 0
	case shape.Kind() == reflect.Int32:
		return s.IntN(100)
	case shape == reflect.TypeFor[[]byte]():
		return []byte("bytes")
	case shape.Kind() == reflect.Slice:
		out := []any{}
		for range 1 + s.IntN(3) {
			out = append(out, s.typed(shape.Elem()))
		}
		return out
	case shape.Kind() == reflect.Map:
		out := map[string]string{}
		for i := range s.IntN(3) {
			out[strconv.Itoa(i)+strings.ToValidUTF8(s.hostile(), "?")] = "value"
		}
		return out
	}
	s.t.Fatalf("no value for %s", shape)
	return nil
}

// name is something that requests name, "" if there is none yet.
func (s *scene) name(kind string) string {
	if len(s.names[kind]) == 0 {
		return ""
	}
	return s.pick(s.names[kind]...)
}

// learn remembers what an answer gives.
func (s *scene) learn(operation string, answer *kmsapi.Answer) {
	var out struct {
		KeyMetadata                                             struct{ Arn string }
		GrantId, GrantToken, CiphertextBlob, ImportToken, KeyId string
		CustomKeyStoreId                                        string
	}
	if answer.Status != 200 || len(answer.Body) == 0 || json.Unmarshal(answer.Body, &out) != nil {
		return
	}
	for kind, name := range map[string]string{
		"key": out.KeyMetadata.Arn, "grant": out.GrantId, "token": out.GrantToken, "blob": out.CiphertextBlob,
		"import": out.ImportToken, "store": out.CustomKeyStoreId,
	} {
		if name != "" && operation != "DescribeKey" {
			s.names[kind] = append(s.names[kind], name)
			if n := len(s.names[kind]); n > 12 { // so that requests meet
				s.names[kind] = s.names[kind][n-12:]
			}
		}
	}
}

// state is every row that a client can change, by a name that is in it. What
// the daemon counts for itself is none of it.
func (s *scene) state() map[string]string {
	view, state := s.db.View(), map[string]string{}
	put := func(name string, row any) {
		text, err := json.Marshal(row)
		if err != nil {
			s.t.Fatal(err)
		}
		state[name] += string(text)
	}
	for k := range view.AllKeys() {
		put(k.ID, k)
		for g := range view.GrantsOf(k.Region, k.ID, "") {
			put(g.ID, g)
		}
	}
	for v := range view.AllVersions() {
		row := *v
		row.Encryptions = 0
		put(v.KeyID, row)
	}
	if at, ok := view.Setting("clock"); ok {
		put("Clock", at)
	}
	for p := range view.AllImportParameters() {
		put(p.KeyID, p)
	}
	for _, region := range []string{"us-east-1", otherRegion} {
		for a := range view.Aliases(region, "") {
			put(a.Name, a)
		}
		for c := range view.CustomKeyStores(region, "") {
			put(c.ID, c)
		}
	}
	return state
}

// difference are the names whose rows differ.
func difference(a, b map[string]string) []string {
	var names []string
	for name, row := range a {
		if b[name] != row {
			names = append(names, name)
		}
	}
	for name := range b {
		if _, ok := a[name]; !ok {
			names = append(names, name)
		}
	}
	return names
}
