package reuseport

import (
	"context"
	"net/http/httptrace"
	"net/netip"

	"github.com/reusetransport/reuseport/internal/netaddr"
)

// This file tells the hooks of net/http/httptrace what net.Dialer tells them.

// A connectTrace tells the hooks of net/http/httptrace of a connect that package net does not
// tell them of: it does so in Dialer.DialContext and not in DialTCP.
type connectTrace struct{ hooks *httptrace.ClientTrace }

func traceConnect(ctx context.Context, raddr netip.AddrPort) connectTrace {
	trace := connectTrace{httptrace.ContextClientTrace(ctx)}
	if trace.hooks != nil && trace.hooks.ConnectStart != nil {
		trace.hooks.ConnectStart(netaddr.Network(raddr.Addr()), raddr.String())
	}
	return trace
}

func (trace connectTrace) done(raddr netip.AddrPort, err error) {
	if trace.hooks != nil && trace.hooks.ConnectDone != nil {
		trace.hooks.ConnectDone(netaddr.Network(raddr.Addr()), raddr.String(), err)
	}
}

// untraced is a context without hooks.
type untraced struct{ context.Context }

func (ctx untraced) Value(key any) any {
	v := ctx.Context.Value(key)
	if _, ok := v.(*httptrace.ClientTrace); ok {
		return nil
	}
	return v
}

// traceLookup returns a context for the look-up of a name. Its hooks are told of the look-up, and
// not of connections to name servers. Package net does the same in Dialer.
func traceLookup(ctx context.Context) context.Context {
	hooks := httptrace.ContextClientTrace(ctx)
	if hooks == nil {
		return ctx
	}
	lookup := &httptrace.ClientTrace{DNSStart: hooks.DNSStart, DNSDone: hooks.DNSDone}
	if lookup.DNSDone == nil {
		lookup.DNSDone = func(httptrace.DNSDoneInfo) {} // without any hook package net would find the old ones
	}
	return httptrace.WithClientTrace(untraced{ctx}, lookup)
}
