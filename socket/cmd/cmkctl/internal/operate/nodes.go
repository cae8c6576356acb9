package operate

import (
	"fmt"
	"text/tabwriter"

	"cmkd/socket/operatorapi"
)

// OnToken names the token of a plugin, with its member if it has any.
func OnToken(p *operatorapi.PluginHealth) string {
	if p.Member == "" {
		return p.Token
	}
	return p.Token + "/" + p.Member
}

// printMembers is about the tokens that hold the same keys.
func (h *Health) printMembers(w *tabwriter.Writer, headers bool) error {
	for _, t := range h.Tokens {
		if len(t.Members) == 0 {
			continue
		}
		fmt.Fprintln(w)
		if headers {
			fmt.Fprintln(w, "MEMBER\tTOKEN\tSTATE\tLABEL\tSERIAL\tCALLS\tWHY")
		}
		for _, m := range t.Members {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%s\n", m.Name, t.Name, m.State, m.Label, m.Serial, m.InFlight, m.Error)
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	return nil
}

// printNodes is about the daemons that have one database, and the servers that keep it.
func (h *Health) printNodes(w *tabwriter.Writer, headers bool) error {
	if len(h.Nodes) > 0 {
		fmt.Fprintln(w)
		if headers {
			fmt.Fprintln(w, "NODE\tSTATE\tROLE\tLAG")
		}
		for _, n := range h.Nodes {
			state, role, name := "does not serve", "", n.Name
			if n.Serves {
				state, role = "serves", "follower"
			}
			if n.Leader {
				role = "leader"
			}
			if n.Self {
				name += " (this one)"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%d ms\n", name, state, role, n.LagMilliseconds)
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	if len(h.Servers) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	if headers {
		fmt.Fprintln(w, "ETCD\tSTATE")
	}
	for _, s := range h.Servers {
		state := "follower"
		switch {
		case s.Error != "":
			state = s.Error
		case s.Leader:
			state = "leader"
		}
		fmt.Fprintf(w, "%s\t%s\n", s.Endpoint, state)
	}
	return w.Flush()
}
