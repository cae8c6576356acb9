package policy

// resourceSet is a Resource or a NotResource element.
type resourceSet struct {
	// absent: a key policy statement may lack the element, and then applies to
	// no key, as in AWS.
	// https://docs.aws.amazon.com/kms/latest/developerguide/key-policy-overview.html#key-policy-elements
	absent   bool
	all      bool // Resource "*"
	not      bool
	patterns []pattern
}

// matches reports whether the element matches the resource of the request, the
// pattern over the whole ARN. A pattern whose variable has no value matches
// nothing; with NotResource the statement then does what refuses: an Allow does
// not apply, a Deny does.
func (s *resourceSet) matches(e *evaluation, effect Effect) bool {
	if s.absent || s.all {
		return s.all
	}
	unresolved := false
	for i := range s.patterns {
		matched, resolved := s.patterns[i].match(e, e.r.Resource)
		if matched {
			return !s.not
		}
		unresolved = unresolved || !resolved
	}
	return s.not && (!unresolved || effect == Deny)
}
