package config

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
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
	_, other := errors.AsType[*elf.FormatError](err)
	switch {
	case other, errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), err == nil && library.Type != elf.ET_DYN:
		return fmt.Errorf("%s is not a PKCS#11 library: it is not a shared library (ELF) at all", path)
	case err != nil:
		return fmt.Errorf("%s is not a PKCS#11 library: reading it as a shared library (ELF): %w", path, err)
	}
	if exports(library) || linked(library) {
		return nil
	}
	return fmt.Errorf("%s is not a PKCS#11 library: it has no function %s", path, entry)
}

// exports reports whether the library has the function. One without section headers does not say,
// and may be loaded all the same.
func exports(library *elf.File) bool {
	symbols, err := library.DynamicSymbols()
	return err != nil || slices.ContainsFunc(symbols, func(s elf.Symbol) bool { return s.Name == entry && s.Section != elf.SHN_UNDEF })
}

// linked reports whether the library is linked to one that may have the function: that counts, too
// (dlsym(3)).
func linked(library *elf.File) bool {
	needed, err := library.ImportedLibraries()
	return err != nil || slices.ContainsFunc(needed, mayExport)
}

// mayExport reports whether a library that another one is linked to may have functions of PKCS#11.
func mayExport(library string) bool {
	name, _, _ := strings.Cut(library, ".")
	return !slices.Contains([]string{"libc", "libm", "libdl", "libpthread", "librt", "libgcc_s", "libstdc++", "libcrypto", "libz", "ld-linux-x86-64", "ld-linux-aarch64"}, name)
}
