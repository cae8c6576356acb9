package config

import (
	"debug/elf"
	"errors"
	"fmt"
	"slices"
	"strings"

	"cmkd/daemon/trustedfile"
)

// entry is the function that every PKCS#11 module has (PKCS#11 2.40 Base, section 5.2).
const entry = "C_GetFunctionList"

// checkModule refuses a file that cannot be a PKCS#11 module, without loading it: that would run
// what is in it, and the dynamic linker says little of why it does not load something.
func checkModule(path string) error {
	if err := trustedfile.CheckFile(path, false); err != nil {
		return err
	}
	f, _, err := trustedfile.OpenRegular(path)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	library, err := elf.NewFile(f)
	if _, ok := errors.AsType[*elf.FormatError](err); ok || err == nil && library.Type != elf.ET_DYN {
		return fmt.Errorf("%s is not a PKCS#11 library: it is not a shared library (ELF) at all", path)
	}
	if err != nil {
		return fmt.Errorf("%s is not a PKCS#11 library: reading it as a shared library (ELF): %w", path, err)
	}
	symbols, err := library.DynamicSymbols()
	if err != nil || slices.ContainsFunc(symbols, func(s elf.Symbol) bool { return s.Name == entry && s.Section != elf.SHN_UNDEF }) {
		return nil //nolint:nilerr // one without section headers says nothing, and may be loaded all the same
	}
	needed, err := library.ImportedLibraries()
	if err != nil || slices.ContainsFunc(needed, mayExport) {
		return nil //nolint:nilerr // what it is linked to counts, too (dlsym(3))
	}
	return fmt.Errorf("%s is not a PKCS#11 library: it has no function %s", path, entry)
}

// mayExport reports whether a library that another one is linked to may have functions of PKCS#11.
func mayExport(library string) bool {
	name, _, _ := strings.Cut(library, ".")
	return !slices.Contains([]string{"libc", "libm", "libdl", "libpthread", "librt", "libgcc_s", "libstdc++", "libcrypto", "libz", "ld-linux-x86-64", "ld-linux-aarch64"}, name)
}
