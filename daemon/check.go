package daemon

import (
	"errors"
	"log/slog"

	"cmkd/daemon/config"
	"cmkd/daemon/identity"
)

// Check reads what a start reads, but for the token and the database: the
// configuration, users, access keys, identity policies, roots, PIN files, modules,
// plugins, and what the audit trail is shipped with. The error joins all that is wrong; warnings are of what a start
// takes.
func Check(path string) (warnings []string, err error) {
	cfg, err := config.Load(path)
	if err != nil {
		return nil, err
	}
	var errs []error
	ids, err := identity.New(cfg, slog.New(slog.DiscardHandler), false)
	if err == nil {
		warnings = ids.Warnings()
	}
	errs = append(errs, err)
	more, err := cfg.CheckFiles()
	return append(warnings, more...), errors.Join(append(errs, err)...)
}

// warnOfPINs logs what [config.CheckPIN] warns of, and keeps it for the status. A token of
// which the PIN is missing may come later.
func (d *Daemon) warnOfPINs(cfg *config.Config) {
	var list []string
	for _, t := range cfg.Parts() {
		if warning, _ := config.CheckPIN(t.PINFile); warning != "" {
			d.log.Warn(warning, "token", t.Title())
			list = append(list, "token "+t.Title()+": "+warning)
		}
	}
	d.pins.Store(&list)
}

// Warnings are what an administrator should know of the configuration in use.
func (d *Daemon) warnings() []string {
	list := d.identities.Load().Warnings()
	if pins := d.pins.Load(); pins != nil {
		list = append(list, *pins...)
	}
	return list
}
