package server

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/store/vfs"
)

// clusterService tells how the cluster is laid out and how this node is.
type clusterService struct {
	kvdpb.UnimplementedClusterServer
	*service
	cfg   Config
	ready func() error
}

var _ kvdpb.ClusterServer = (*clusterService)(nil)

// GetMap implements kvdpb.ClusterServer.
func (s *clusterService) GetMap(_ context.Context, req *kvdpb.GetMapRequest) (*kvdpb.GetMapResponse, error) {
	if err := s.observe(req.Header); err != nil {
		return nil, s.fail(err, nil)
	}
	m := s.node.Map()
	if m.Epoch == 0 { // only planned: it has no addresses of clients
		return nil, s.fail(refuse(kvdpb.Reason_REASON_UNAVAILABLE, "this node has no cluster map yet: the cluster is still forming, try again"), nil)
	}
	resp := &kvdpb.GetMapResponse{Header: s.header(0), Map: m.ClusterMap, Node: s.cfg.Name}
	if req.Header.GetEpoch() != m.Epoch { // most ask for the leaders alone
		resp.SlotOwners = m.Owners[:]
	}
	// A client takes this for the revision known at its first attempts, which
	// cannot be 0: so much has been applied somewhere, since there is a map.
	resp.Header.Revision = max(resp.Header.Revision, 1)
	for _, l := range s.node.Leaders() {
		resp.Leaders = append(resp.Leaders, &kvdpb.ShardLeader{Shard: l.Shard, Node: l.Node, Term: l.Term})
	}
	return resp, nil
}

// NodeStatus implements kvdpb.ClusterServer.
func (s *clusterService) NodeStatus(_ context.Context, req *kvdpb.NodeStatusRequest) (*kvdpb.NodeStatusResponse, error) {
	if err := s.observe(req.Header); err != nil {
		return nil, s.fail(err, nil)
	}
	resp := &kvdpb.NodeStatusResponse{
		Header: s.header(0), Node: s.cfg.Name, Version: s.cfg.Version,
		AlivePeers:    s.node.AlivePeers(),
		ClockOffsetMs: s.node.Clock().Offset().Milliseconds(),
	}
	if err := s.ready(); err != nil {
		resp.NotReady = err.Error()
	}
	for _, r := range s.node.Status() {
		resp.Replicas = append(resp.Replicas, &kvdpb.ReplicaStatus{
			Shard: r.Shard, Role: r.Role, Leader: r.Leader, Term: r.Term,
			Applied: r.Applied, Committed: r.Committed, Revision: r.Revision,
			Keys: r.Store.Keys, Bytes: uint64(r.Store.FileBytes), BytesInUse: uint64(r.Store.FileBytesInUse),
			MemtableBytes: uint64(r.Store.MemtableBytes), CheckpointRevision: r.Store.CheckpointRevision,
		})
	}
	return resp, nil
}

// CheckDisk implements kvdpb.ClusterServer.
func (s *clusterService) CheckDisk(_ *kvdpb.CheckDiskRequest, stream kvdpb.Cluster_CheckDiskServer) error {
	ctx := stream.Context()
	for _, r := range s.node.Replicas() {
		resp := &kvdpb.CheckDiskResponse{Shard: new(r.ID())}
		result, err := r.Store().Check(ctx)
		switch {
		case ctx.Err() != nil:
			return s.fail(ctx.Err(), r)
		case err != nil:
			resp.Faults = []string{err.Error()}
		default:
			resp.Records, resp.Faults = result.Records, result.Faults
		}
		if err := stream.Send(resp); err != nil {
			return err
		}
	}
	resp := &kvdpb.CheckDiskResponse{Path: s.cfg.DataDir}
	p50, p99, err := measureSync(ctx, s.cfg.FS, s.cfg.DataDir)
	if err != nil {
		resp.Faults = []string{err.Error()}
	}
	resp.SyncP50Us, resp.SyncP99Us = uint64(p50.Microseconds()), uint64(p99.Microseconds())
	return stream.Send(resp)
}

const (
	syncProbes     = 100
	syncProbeBytes = 4 << 10
)

// measureSync writes and syncs a file beside the data as the log does, and
// returns percentiles of the time that one write takes.
func measureSync(ctx context.Context, fs vfs.FS, dir string) (p50, p99 time.Duration, err error) {
	name := filepath.Join(dir, "sync-probe.tmp")
	f, err := fs.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, 0, fmt.Errorf("measure sync: %w", err)
	}
	defer func() {
		f.Close()
		if e := fs.Remove(name); e != nil && err == nil {
			err = fmt.Errorf("measure sync: %w", e)
		}
	}()
	block := bytes.Repeat([]byte{0x5a}, syncProbeBytes)
	times := make([]time.Duration, 0, syncProbes)
	for range syncProbes {
		if err := ctx.Err(); err != nil {
			return 0, 0, fmt.Errorf("measure sync: %w", err)
		}
		start := time.Now()
		if _, err := f.Write(block); err != nil {
			return 0, 0, fmt.Errorf("measure sync: %w", err)
		}
		if err := f.Sync(); err != nil {
			return 0, 0, fmt.Errorf("measure sync: %w", err)
		}
		times = append(times, time.Since(start))
	}
	slices.Sort(times)
	return times[len(times)/2], times[len(times)*99/100], nil
}
