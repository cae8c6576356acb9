package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// TestExample loads the example, as it is and with its comments taken off
// every optional key: the example must not name a key that does not exist.
func TestExample(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../../config.example.toml")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Load("../../config.example.toml"); err != nil {
		t.Errorf("as it is: %v", err)
	}
	var all strings.Builder
	for line := range strings.Lines(string(raw)) {
		rest, commented := strings.CutPrefix(line, "# ")
		if commented && (strings.HasPrefix(rest, "[") || strings.Contains(rest, " = ")) {
			line = rest
		}
		all.WriteString(line)
	}
	path := filepath.Join(t.TempDir(), "all.toml")
	text := strings.ReplaceAll(all.String(), `sha256 = ""`, `sha256 = "00"`)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := Load(path)
	if err != nil {
		t.Fatalf("uncommented: %v", err)
	}
	if cfg.Socket.MaxCallsPerUser != 512 || cfg.Tokens[0].MaxSessions != 16 || cfg.Tokens[0].Workers != 8 || len(cfg.Plugins) != 1 {
		t.Errorf("the uncommented keys did not take effect: %+v", cfg)
	}
	if cfg.IdentityPolicies == "" || len(cfg.Principals.Known) != 1 || cfg.Principals.Map[0].Unit != "web.service" ||
		cfg.Principals.Map[0].Tags["stage"] != "prod" || cfg.AccessKeys[0].SecretFile == "" {
		t.Errorf("the uncommented keys about callers did not take effect: %+v", cfg)
	}
}

// TestExampleIsComplete: every key of the configuration is in the example.
func TestExampleIsComplete(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../../config.example.toml")
	if err != nil {
		t.Fatal(err)
	}
	var missing func(typ reflect.Type)
	missing = func(typ reflect.Type) {
		for f := range typ.Fields() {
			at := f.Type
			if at.Kind() == reflect.Slice || at.Kind() == reflect.Pointer {
				at = at.Elem()
			}
			name := f.Tag.Get("toml")
			if at.Kind() == reflect.Struct {
				if !strings.Contains(string(raw), "["+name+"]") && !strings.Contains(string(raw), "."+name+"]") {
					t.Errorf("the example has no table %s", name)
				}
				missing(at)
			} else if !strings.Contains(string(raw), "\n# "+name+" = ") && !strings.Contains(string(raw), "\n"+name+" = ") &&
				!strings.Contains(string(raw), "or "+name+" = ") {
				t.Errorf("the example has no key %s", name)
			}
		}
	}
	missing(reflect.TypeFor[Config]())
}

func TestConfigRefuses(t *testing.T) {
	t.Parallel()
	const good = `account = "123456789012"
state_dir = "/s"
[[token]]
name = "main"
module = "/m"
label = "l"
pin_file = "/p"
`
	for _, tt := range []struct{ name, old, new, want string }{
		{"unknown key", `state_dir`, "no_such = 1\nstate_dir", "unknown key no_such in line 2"},
		{"unknown key of a table", `label = "l"`, "label = \"l\"\nno_such = 1", "unknown key token.no_such in line "},
		{"unknown table", `[[token]]`, "[no_such]\na = 1\n[[token]]", "unknown key no_such in line "},
		{"account", `"123456789012"`, `"12345"`, "account must be 12 digits"},
		{"relative state", `"/s"`, `"s"`, "state_dir must be an absolute path"},
		{"no token", good[strings.Index(good, "[[token]]"):], "", "at least one is needed"},
		{"label and serial", `label = "l"`, "label = \"l\"\nserial = \"1\"", "label or serial"},
		{"token name", `"main"`, `"Main"`, "token name"},
		{"relative module", `"/m"`, `"m"`, "module must be an absolute path"},
		{"relative PIN", `"/p"`, `"p/q"`, "pin_file must be an absolute path or the name of a systemd credential"},
		{"few sessions", `label = "l"`, "label = \"l\"\nmax_sessions = 3", "max_sessions must be at least 4"},
		{"signing keys without a store", `label = "l"`, "label = \"l\"\nsigning_keys = true", "token main: signing_keys is for a custom key store: set cluster_id, too"},
		{"one member", `pin_file = "/p"`, "pin_file = \"/p\"\n[[token.member]]\nname = \"a\"\n", "token main: give 2 to 16 members, or none, not 1"},
		{"members of one name", `pin_file = "/p"`, "pin_file = \"/p\"\n[[token.member]]\nname = \"a\"\n[[token.member]]\nname = \"a\"\n", "token main: the name of a member must be unique"},
		{"relative module of a member", `pin_file = "/p"`, "pin_file = \"/p\"\n[[token.member]]\nname = \"a\"\n[[token.member]]\nname = \"b\"\nmodule = \"m\"\n", "token main/b: module must be an absolute path"},
		{"label and serial of a member", `pin_file = "/p"`, "pin_file = \"/p\"\n[[token.member]]\nname = \"a\"\nlabel = \"l\"\nserial = \"1\"\n[[token.member]]\nname = \"b\"\n", "token main/a: give label or serial"},
		{"unknown creation", `pin_file = "/p"`, "pin_file = \"/p\"\ncreation = \"both\"\n", "creation must be \"all\" or \"first\", not \"both\""},
		{"no workers", `label = "l"`, "label = \"l\"\nworkers = -1", "workers must be at least 1"},
		{"region", `state_dir`, "region = \"Europe\"\nstate_dir", "region must be"},
		{"mode", `[[token]]`, "[socket]\nmode = \"rw\"\n[[token]]", "socket: mode must be octal"},
		{"mode for nobody", `[[token]]`, "[socket]\nmode = \"0\"\n[[token]]", "socket: mode must let at least the owner connect"},
		{"unknown engine", `[[token]]`, "[store]\nengine = \"postgres\"\n[[token]]", "store: engine must be \"sqlite\" or \"etcd\", not \"postgres\""},
		{"endpoints for SQLite", `[[token]]`, "[store]\nendpoints = [\"http://localhost:2379\"]\n[[token]]", "is for engine = \"etcd\""},
		{"etcd nowhere", `[[token]]`, etcdTable("endpoints = []") + "[[token]]", "endpoints must name the servers"},
		{"etcd without a port", `[[token]]`, etcdTable("endpoints = [\"http://localhost\"]") + "[[token]]", "endpoints must be like"},
		{"etcd in the clear", `[[token]]`, etcdTable("endpoints = [\"http://192.0.2.1:2379\"]") + "[[token]]", "must be https"},
		{"etcd half in the clear", `[[token]]`, etcdTable("endpoints = [\"http://127.0.0.1:2379\", \"https://127.0.0.1:2380\"]") + "[[token]]", "all https or all http"},
		{"etcd without a certificate", `[[token]]`, etcdTable("endpoints = [\"https://etcd.example.com:2379\"]") + "[[token]]", "https needs cert_file"},
		{"etcd without a key", `[[token]]`, etcdTable("cert_file = \"/c\"") + "[[token]]", "cert_file and key_file go together"},
		{"etcd with a relative key", `[[token]]`, etcdTable("cert_file = \"/c\"\nkey_file = \"a/b\"") + "[[token]]", "key_file must be an absolute path"},
		{"etcd with a relative authority", `[[token]]`, etcdTable("ca_file = \"c\"") + "[[token]]", "must be an absolute path"},
		{"etcd without a node", `[[token]]`, etcdTable("node = \"\"") + "[[token]]", "node must be lower-case"},
		{"etcd with an open prefix", `[[token]]`, etcdTable("prefix = \"/cmkd\"") + "[[token]]", "prefix must be like /cmkd/"},
		{"etcd at the root", `[[token]]`, etcdTable("prefix = \"/\"") + "[[token]]", "prefix must be like /cmkd/"},
		{"stale too soon", `[[token]]`, etcdTable("max_staleness = \"10ms\"") + "[[token]]", "max_staleness must be from 1s to 1m"},
		{"stale without a unit", `[[token]]`, etcdTable("max_staleness = 5") + "[[token]]", "store.max_staleness must be a string with a unit"},
		{"relative socket", `[[token]]`, "[socket]\npath = \"s\"\n[[token]]", "socket: path must be an absolute path"},
		{"negative connections", `[[token]]`, "[socket]\nmax_connections = -1\n[[token]]", "socket: max_connections must be 0 or more"},
		{"negative calls of a user", `[[token]]`, "[socket]\nmax_calls_per_user = -1\n[[token]]", "socket: max_calls_per_user must be 0 or more"},
		{"negative reserve", `[[token]]`, "[socket]\nreserve = -1\n[[token]]", "socket: reserve must be 0 or more"},
		{"negative rate", `[[token]]`, "[socket]\nrate_per_user = -5.0\n[[token]]", "socket: rate_per_user must be 0 or more"},
		{"no number as a rate", `[[token]]`, "[socket]\nrate_per_user = nan\n[[token]]", "socket: rate_per_user must be 0 or more"},
		{"relative trail", `state_dir`, "audit_dir = \"a\"\nstate_dir", "audit_dir must be an absolute path"},
		{"two plugins", "pin_file = \"/p\"\n", "pin_file = \"/p\"\n[[plugin]]\nname = \"a\"\n[[plugin]]\nname = \"a\"\n", "plugin name must be unique"},
		{"cluster of the first token", `name = "main"`, "name = \"main\"\ncluster_id = \"cluster-a2b3c4d5e6f\"", "the first token"},
		{"malformed cluster", "pin_file = \"/p\"\n", "pin_file = \"/p\"\n[[token]]\nname = \"b\"\nmodule = \"/m\"\nlabel = \"l\"\npin_file = \"/p\"\ncluster_id = \"cluster-189\"\n", "cluster_id must be"},
		{"managed key without users", `[[token]]`, "[[managed_key]]\nalias = \"alias/aws/a\"\n[[token]]", "users must name"},
		{"managed key of a plain alias", `[[token]]`, "[[managed_key]]\nalias = \"alias/a\"\nusers = [\"*\"]\n[[token]]", "alias must be alias/aws/NAME"},
		{"managed key of another account", `[[token]]`, "[[managed_key]]\nalias = \"alias/aws/a\"\nusers = [\"arn:aws:iam::210987654321:user/a\"]\n[[token]]", "is not an ARN"},
		{"negative quota", `[[token]]`, "[limits]\nkeys = -1\n[[token]]", "must not be negative"},
		{"rate of no operation", `[[token]]`, "[limits]\nrequest_rates = { Encypt = 1.0 }\n[[token]]", "unknown operation"},
		{"no rate", `[[token]]`, "[limits]\nrequest_rates = { \"*\" = 0.0 }\n[[token]]", "must be above 0"},
		{"relative policies", `state_dir`, "identity_policies = \"p\"\nstate_dir", "identity_policies must be an absolute path"},
		{"known of another account", `state_dir`, "principals.known = [\"arn:aws:iam::210987654321:role/a\"]\nstate_dir", "principals: known"},
		{"map of nobody", `[[token]]`, "[[principals.map]]\narn = \"arn:aws:iam::123456789012:role/a\"\n[[token]]", "give unit, user or group"},
		{"map to root", `[[token]]`, "[[principals.map]]\nuser = \"1\"\narn = \"arn:aws:iam::123456789012:root\"\n[[token]]", "is not an ARN"},
		{"map of a unit to a group", `[[token]]`, "[[principals.map]]\nunit = \"a.service\"\narn = \"arn:aws:iam::123456789012:group/a\"\n[[token]]", "goes with a group alone"},
		{"map of no unit", `[[token]]`, "[[principals.map]]\nunit = \"a.socket\"\narn = \"arn:aws:iam::123456789012:role/a\"\n[[token]]", "service or scope"},
		{"short access key", `[[token]]`, "[[access_key]]\nid = \"AKIA\"\nsecret_file = \"/s\"\nprincipal = \"arn:aws:iam::123456789012:role/a\"\n[[token]]", "16 to 128"},
		{"access key of a group", `[[token]]`, "[[access_key]]\nid = \"AKIAIOSFODNN7EXAMPLE\"\nsecret_file = \"/s\"\nprincipal = \"arn:aws:iam::123456789012:group/a\"\n[[token]]", "a user or a role"},
		{"string for a number", `label = "l"`, "label = \"l\"\nworkers = \"two\"", "token.workers in line 7 must be a whole number, not a string in quotes"},
		{"number for a string", `"/m"`, `1`, "token.module in line 5 must be a string in quotes, not a whole number"},
		{"string for true", `state_dir`, "plaintext_data_keys = \"yes\"\nstate_dir", "plaintext_data_keys in line 2 must be true or false, not a string in quotes"},
		{"string for a list", `state_dir`, "regions = \"eu-west-1\"\nstate_dir", "regions in line 2 must be a list, not a string in quotes"},
		{"string for a table", `state_dir`, "socket = \"/s\"\nstate_dir", "socket in line 2 must be a table, not a string in quotes"},
		{"table for tables", `[[token]]`, "[limits]\nrequest_rates = 1\n[[token]]", "limits.request_rates must be a table"},
		{"string for a rate", `[[token]]`, "[socket]\nrate_per_user = \"5\"\n[[token]]", "socket.rate_per_user in line 4 must be a number, not a string in quotes"},
		{"number for a time", `label = "l"`, "label = \"l\"\nunavailable_after = 5", "token.unavailable_after must be a string with a unit"},
		{"huge number", `label = "l"`, "label = \"l\"\nworkers = 99999999999999999999", "token.workers in line 7: the number 99999999999999999999 is too large"},
		{"access key without a secret", `[[token]]`, "[[access_key]]\nid = \"AKIAIOSFODNN7EXAMPLE\"\nprincipal = \"arn:aws:iam::123456789012:role/a\"\n[[token]]", "secret_file is missing"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "config.toml")
			if err := os.WriteFile(path, []byte(strings.Replace(good, tt.old, tt.new, 1)), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := Load(path)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// etcdTable is a table of the store that is right but for one line.
func etcdTable(line string) string {
	key, _, _ := strings.Cut(line, " ")
	text := "[store]\n" + line + "\n"
	for _, other := range []string{`engine = "etcd"`, `endpoints = ["http://127.0.0.1:2379"]`, `node = "one"`} {
		if !strings.HasPrefix(other, key+" ") {
			text += other + "\n"
		}
	}
	return text
}
