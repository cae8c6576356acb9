// Package audit is `cmkctl audit`: reading, searching, following and verifying the audit trail.
package audit
