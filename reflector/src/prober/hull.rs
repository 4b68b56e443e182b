//! The convex hulls between which the offset of two clocks lies.
//!
//! A one-way delay is never below zero. So the line `offset + rate · t` by which the reflector's clock runs ahead of the probe's lies
//! below every `B2 - A1` and above every `B3 - A4`, and hence between the lower hull of the former and the upper hull of the latter
//! (L. Zhang, Z. Liu, C. H. Xia, *Clock synchronization algorithms for network measurements*, INFOCOM 2002). One pass, in order of time.

/// A point: time in nanoseconds since the segment began, and a difference of two clocks in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) at: i64,
    pub(super) difference: i64,
}

/// The lower convex hull of some points, in order of time. The upper hull of points is the lower hull of their negatives, negated.
#[derive(Clone, Debug)]
pub(super) struct LowerHull(Vec<Point>);

impl LowerHull {
    /// Of `points` in order of time (A. M. Andrew, 1979). `None` without a point.
    pub(super) fn of(points: impl Iterator<Item = Point>) -> Option<Self> {
        let mut hull: Vec<Point> = Vec::new();
        for point in points {
            if let Some(last) = hull.last()
                && last.at == point.at
            {
                if last.difference <= point.difference {
                    continue;
                }
                hull.pop();
            }
            while let [.., a, b] = hull[..]
                && !turns_up(a, b, point)
            {
                hull.pop();
            }
            hull.push(point);
        }
        (!hull.is_empty()).then_some(Self(hull))
    }

    /// The most that a line below all points can be at a time, if its slope is at most `steepest` where there are no points.
    pub(super) fn at(&self, at: i64, steepest: f64) -> f64 {
        let (first, last) = (self.0[0], self.0[self.0.len() - 1]);
        if at <= first.at {
            return first.difference as f64 + steepest * (first.at - at) as f64;
        }
        if at >= last.at {
            return last.difference as f64 + steepest * (at - last.at) as f64;
        }
        let right = self.0.partition_point(|point| point.at < at);
        let (from, to) = (self.0[right - 1], self.0[right]);
        from.difference as f64 + slope(from, to) * (at - from.at) as f64
    }

    /// The slope of the edge at a time; `None` where no edge is.
    pub(super) fn slope(&self, at: i64) -> Option<f64> {
        let right = self.0.partition_point(|point| point.at < at);
        let from = *self.0.get(right.checked_sub(1)?)?;
        Some(slope(from, *self.0.get(right)?))
    }

    /// The points of the hull.
    pub(super) fn vertices(&self) -> impl Iterator<Item = Point> + '_ {
        self.0.iter().copied()
    }
}

fn slope(from: Point, to: Point) -> f64 {
    (to.difference - from.difference) as f64 / (to.at - from.at) as f64
}

/// Whether the way from `a` over `b` to `c` turns to the left.
fn turns_up(a: Point, b: Point, c: Point) -> bool {
    let cross = |x: i64, y: i64| i128::from(x) * i128::from(y);
    cross(b.at - a.at, c.difference - a.difference) > cross(c.at - a.at, b.difference - a.difference)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_lies_below_all_points_and_touches_some(
            mut points in prop::collection::vec((0..10_000i64, -100_000..100_000i64), 1..100),
        ) {
            points.sort_unstable();
            let points: Vec<Point> = points.into_iter().map(|(at, difference)| Point { at, difference }).collect();
            let hull = LowerHull::of(points.iter().copied()).unwrap();
            for point in &points {
                prop_assert!(hull.at(point.at, 0.0) <= point.difference as f64 + 1e-6);
            }
            prop_assert!(hull.vertices().all(|vertex| points.contains(&vertex)));
            let slopes: Vec<f64> = hull.0.windows(2).map(|edge| hull.slope(edge[1].at).unwrap()).collect();
            prop_assert!(slopes.is_sorted_by(|a, b| a < b), "{:?}", slopes);
        }
    }

    #[test]
    fn without_points_there_is_none() {
        assert!(LowerHull::of(std::iter::empty()).is_none());
    }
}
