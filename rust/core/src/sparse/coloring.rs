//! Colourings of the graph of a symmetric matrix.
//!
//! With one product H s for each colour, where s is 1 at the vertices of that colour and 0 elsewhere, every entry of H can
//! be read off: neighbours have different colours, and of two neighbours i, j at least one is the only neighbour of the
//! other with its colour (Coleman and Moré 1984: a star colouring, in which no path of four vertices has two colours).

/// Colour the graph whose edges lead from v to `neighbors[starts[v]..starts[v + 1]]`, in both directions and without loops.
///
/// Greedy, in the order of the vertices (Gebremedhin, Tarafdar, Manne and Pothen 2007, algorithm 4.1).
pub fn star_coloring(starts: &[usize], neighbors: &[usize]) -> Vec<usize> {
    let n = starts.len().saturating_sub(1);
    let around = |v: usize| &neighbors[starts[v]..starts[v + 1]];
    let mut colors: Vec<Option<usize>> = vec![None; n];
    // The last vertex that a colour was forbidden for.
    let mut forbidden: Vec<usize> = Vec::new();
    let forbid = |forbidden: &mut Vec<usize>, color: usize, v: usize| {
        if forbidden.len() <= color {
            forbidden.resize(color + 1, usize::MAX);
        }
        forbidden[color] = v;
    };
    for v in 0..n {
        for &w in around(v) {
            if let Some(color) = colors[w] {
                forbid(&mut forbidden, color, v);
            }
            for &x in around(w).iter().filter(|&&x| x != v) {
                let Some(color) = colors[x] else { continue };
                // v - w - x with w still to be coloured, or v - w - x - y where w and y have one colour already.
                let closes = |w_color| around(x).iter().any(|&y| y != w && colors[y] == Some(w_color));
                if colors[w].is_none_or(closes) {
                    forbid(&mut forbidden, color, v);
                }
            }
        }
        let free = (0..forbidden.len()).find(|&color| forbidden[color] != v).unwrap_or(forbidden.len());
        colors[v] = Some(free);
    }
    colors.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(n: usize, edges: &[(usize, usize)]) -> (Vec<usize>, Vec<usize>) {
        let mut around = vec![Vec::new(); n];
        for &(a, b) in edges {
            around[a].push(b);
            around[b].push(a);
        }
        let mut starts = vec![0];
        for list in &around {
            starts.push(starts[starts.len() - 1] + list.len());
        }
        (starts, around.concat())
    }

    /// Each entry can be read from one of the two products that it appears in, alone.
    fn is_readable(starts: &[usize], neighbors: &[usize], colors: &[usize]) -> bool {
        let around = |v: usize| &neighbors[starts[v]..starts[v + 1]];
        let alone = |i: usize, j: usize| around(i).iter().filter(|&&k| colors[k] == colors[j]).count() == 1;
        (0..colors.len())
            .all(|i| around(i).iter().all(|&j| colors[i] != colors[j] && (alone(i, j) || alone(j, i))))
    }

    fn count(colors: &[usize]) -> usize {
        colors.iter().max().map_or(0, |most| most + 1)
    }

    #[test]
    fn chains_need_three_colours() {
        let edges: Vec<_> = (1..100).map(|i| (i - 1, i)).collect();
        let (starts, neighbors) = graph(100, &edges);
        let colors = star_coloring(&starts, &neighbors);
        assert!(is_readable(&starts, &neighbors, &colors));
        assert_eq!(count(&colors), 3);
    }

    #[test]
    fn stars_need_two() {
        let edges: Vec<_> = (1..50).map(|i| (0, i)).collect();
        let (starts, neighbors) = graph(50, &edges);
        assert_eq!(count(&star_coloring(&starts, &neighbors)), 2);
    }

    #[test]
    fn isolated_vertices_need_one() {
        assert_eq!(count(&star_coloring(&[0; 11], &[])), 1);
        assert!(star_coloring(&[], &[]).is_empty());
        assert!(star_coloring(&[0], &[]).is_empty());
    }

    #[test]
    fn grids_and_random_graphs_can_be_read() {
        let side = 12;
        let mut edges = Vec::new();
        for i in 0..side * side {
            if (i + 1) % side != 0 {
                edges.push((i, i + 1));
            }
            if i + side < side * side {
                edges.push((i, i + side));
            }
        }
        let (starts, neighbors) = graph(side * side, &edges);
        let colors = star_coloring(&starts, &neighbors);
        assert!(is_readable(&starts, &neighbors, &colors));
        assert!(count(&colors) <= 8);
        let mut state = 1_u64;
        for n in [10_usize, 40, 80] {
            let mut next = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) as usize % n
            };
            let mut edges: Vec<_> = (0..3 * n).map(|_| (next(), next())).filter(|(a, b)| a != b).collect();
            edges.iter_mut().for_each(|e| *e = (e.0.min(e.1), e.0.max(e.1)));
            edges.sort_unstable();
            edges.dedup();
            let (starts, neighbors) = graph(n, &edges);
            assert!(is_readable(&starts, &neighbors, &star_coloring(&starts, &neighbors)));
        }
    }
}
