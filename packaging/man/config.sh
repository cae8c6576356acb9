#!/bin/sh
# Makes the manual page of the configuration of the example: config.sh <config.example.toml
set -eu
cat <<'TOP'
.\" Made by packaging/man/config.sh of config.example.toml.
.TH CMKD-CONFIG 5 "" cmkd cmkd
.SH NAME
cmkd-config \- configuration of cmkd
.SH SYNOPSIS
.I /etc/cmkd/config.toml
.SH DESCRIPTION
The configuration of
.BR cmkd (8)
is a TOML file (https://toml.io) that belongs to root or the daemon's user and that
nobody else can write.
.B cmkctl init
writes one.
.B cmkd \-check
checks it, and
.B cmkctl reload
makes the daemon read users, groups, principals, access keys and identity policies again;
the rest requires a restart. These are all settings, with their defaults:
.PP
.nf
TOP
# Backslashes, hyphens, and what a line must not begin with.
sed -e 's/\\/\\e/g' -e 's/-/\\-/g' -e "s/^[.']/\\\\\&&/"
cat <<'END'
.fi
.SH SEE ALSO
.BR cmkctl\-init (1),
.BR cmkd (8)
END
