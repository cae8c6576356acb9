package envelope

import (
	"context"
	"runtime"
	"sync"
)

// chunk is a run of frames that one core works on.
type chunk struct {
	plain, sealed []byte
	first         uint32 // sequence number of the first frame
	end           bool   // the message ends with it
	err           error
	done          chan struct{} // receives once, when the work is done
}

// pipeline works on chunks on all cores and hands them on in their order. Chunks are
// made once and go round: free, work, ordered, free.
type pipeline struct {
	ctx     context.Context
	cancel  context.CancelCauseFunc
	free    chan *chunk
	work    chan *chunk
	ordered chan *chunk
	workers sync.WaitGroup
	all     []*chunk
}

// newPipeline starts the workers, which do f to each chunk, until close.
func newPipeline(ctx context.Context, chunks int, f func(*chunk)) *pipeline {
	p := &pipeline{
		free:    make(chan *chunk, chunks),
		work:    make(chan *chunk, chunks),
		ordered: make(chan *chunk, chunks),
	}
	p.ctx, p.cancel = context.WithCancelCause(ctx)
	for range chunks {
		c := &chunk{done: make(chan struct{}, 1)}
		p.all = append(p.all, c)
		p.free <- c
	}
	for range min(chunks, runtime.GOMAXPROCS(0)) {
		p.workers.Go(func() {
			for c := range p.work {
				if p.ctx.Err() == nil {
					f(c)
				}
				c.done <- struct{}{}
			}
		})
	}
	return p
}

// take returns a chunk that is free.
func (p *pipeline) take() (*chunk, error) {
	select {
	case c := <-p.free:
		return c, nil
	case <-p.ctx.Done():
		return nil, context.Cause(p.ctx)
	}
}

// submit gives a chunk to the workers. It does not block: there are no more chunks
// than room.
func (p *pipeline) submit(c *chunk) {
	p.work <- c
	p.ordered <- c
}

// close lets the workers end after what was submitted.
func (p *pipeline) close() {
	close(p.work)
	close(p.ordered)
}

// next returns the next chunk in order once its work is done, nil after the last.
func (p *pipeline) next() (*chunk, error) {
	select {
	case c, ok := <-p.ordered:
		if !ok { // closed by the end, or by who was told of another end
			return nil, context.Cause(p.ctx)
		}
		<-c.done
		if err := context.Cause(p.ctx); err != nil {
			return nil, err
		}
		return c, nil
	case <-p.ctx.Done():
		return nil, context.Cause(p.ctx)
	}
}

// wipe overwrites the content that is in the chunks, after the workers have ended.
func (p *pipeline) wipe() {
	for _, c := range p.all {
		clear(c.plain[:cap(c.plain)])
	}
}
