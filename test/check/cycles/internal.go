package cycles

import (
	"slices"

	"github.com/kvd-io/kvd/test/history"
)

// view is what one transaction knows of one list: the version it found, and
// what it has appended to it.
type view struct {
	list    int
	read    bool
	version []int
	own     []int
}

// views goes through a transaction's steps, each of which has to agree with
// those before it.
func (o *observations) views(t int) []view {
	var views []view
	for _, m := range o.txns[t].Ops {
		number := o.number[m.Key]
		i := slices.IndexFunc(views, func(v view) bool { return v.list == number })
		if i < 0 {
			i = len(views)
			views = append(views, view{list: number})
		}
		v := &views[i]
		if m.Kind == history.Append {
			v.own = append(v.own, m.Element)
			continue
		}
		others := len(m.List) - len(v.own)
		switch {
		case others < 0 || !slices.Equal(m.List[others:], v.own):
			o.report(Internal, []int{t}, "T%d appended %v to %s, and then read it as %v", t, v.own, m.Key, m.List)
		case !v.read:
			v.read, v.version = true, m.List[:others]
		case !slices.Equal(m.List[:others], v.version):
			o.report(Internal, []int{t}, "T%d found %s to be %v, and then read it as %v", t, m.Key, v.version, m.List)
		}
	}
	for _, v := range views {
		for _, e := range v.own {
			if slices.Contains(v.version, e) {
				o.report(Internal, []int{t}, "T%d found %d in %s before it appended it", t, e, o.lists[v.list].key)
			}
		}
	}
	return views
}
