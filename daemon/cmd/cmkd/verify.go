package main

import (
	"errors"
	"flag"
	"fmt"
	"time"

	cmkd "cmkd/daemon"
	"cmkd/daemon/audit"
)

// trailFlags are the options of -verify-audit.
func trailFlags(flags *flag.FlagSet) *cmkd.TrailOptions {
	o := &cmkd.TrailOptions{}
	flags.BoolVar(&o.ChainOnly, "chain-only", false, "with -verify-audit: verify the hash chain without any public key")
	flags.StringVar(&o.Head, "head", "", "with -verify-audit: a `record` that the trail must have, SEQUENCE:HASH")
	flags.Uint64Var(&o.AtLeast, "at-least", 0, "with -verify-audit: the trail must have the record with this `sequence` number, or a later one")
	flags.StringVar(&o.After, "after", "", "with -verify-audit: the `record` that the trail's first one follows, SEQUENCE:HASH")
	flags.Uint64Var(&o.Tail.Records, "max-unsigned-records", cmkd.DefaultUnsignedRecords, "with -verify-audit: at most so many `records` at the end may be unsigned")
	flags.DurationVar(&o.Tail.Age, "max-unsigned-age", cmkd.DefaultUnsignedAge, "with -verify-audit: the unsigned records at the end may span so much `time`")
	return o
}

// verifyTrail verifies an audit trail offline and says what it found.
func verifyTrail(dir string, o *cmkd.TrailOptions) error {
	report, err := cmkd.VerifyTrail(dir, *o)
	if report.Records > 0 {
		_, broken := errors.AsType[*audit.ChainError](err)
		printReport(&report, len(o.KeyFiles) > 0, broken)
	}
	if _, ok := errors.AsType[*cmkd.UsageError](err); ok {
		return fmt.Errorf("nothing was verified: %w", err)
	}
	if err != nil {
		return fmt.Errorf("the audit trail does not verify: %w", err)
	}
	return nil
}

// printReport prints what was verified: of a broken trail, all before the fault.
func printReport(r *audit.Report, keyed, broken bool) {
	if broken {
		fmt.Print("up to the fault: ")
	}
	fmt.Printf("%s, %d to %d, in %s, %s to %s\n",
		number(r.Records, "record"), r.First, r.Last, number(r.Segments, "segment"), r.FirstTime.Format(time.RFC3339), r.LastTime.Format(time.RFC3339))
	fmt.Printf("last record %d:%x\n", r.Last, r.Hash)
	switch {
	case !keyed:
		fmt.Println("no signature was verified: no public key was given")
	case r.SignedThrough == 0:
		fmt.Println("no record is signed")
	default:
		fmt.Printf("signed through record %d, %s, key %s\n", r.SignedThrough, number(r.Checkpoints, "checkpoint"), r.KeyID)
		if broken {
			break // it has no end
		}
		fmt.Printf("unsigned at the end: %s of %s\n", number(r.Unsigned, "record"), r.UnsignedAge)
	}
	if r.KeyChanges > 0 {
		fmt.Printf("the key changed %s, to the present one with record %d\n", number(r.KeyChanges, "time"), r.KeySince)
	}
	if r.Outages+r.Repairs > 0 {
		fmt.Printf("for a time not writable: %d (AuditLogResumed), torn ends moved aside: %d (AuditLogRepaired)\n", r.Outages, r.Repairs)
	}
}

// number is a count of what the noun names.
func number[N int | uint64](n N, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
