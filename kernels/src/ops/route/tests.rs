use super::*;
use crate::{Tensor, ops::testing::*};

/// Logits and tables, and the definition in f64 of what becomes of them.
struct Case {
    experts: usize,
    chosen: usize,
    router: Router,
    logits: Vec<f32>,
    bias: Option<Vec<f32>>,
    scale: Option<Vec<f32>>,
}

const ROWS: usize = 100;

impl Case {
    fn new(experts: usize, chosen: usize, router: Router) -> Case {
        let logits = Random::new(6).floats(ROWS * experts, 4.0);
        Case { experts, chosen, router, logits, bias: None, scale: None }
    }

    fn biased(mut self) -> Case {
        self.bias = Some(Random::new(7).floats(self.experts, 0.5));
        self
    }

    fn scaled(mut self) -> Case {
        self.scale = Some(Random::new(8).floats(self.experts, 2.0));
        self
    }

    fn run(&self, device: &Device, rows: usize) -> (Vec<u32>, Vec<f32>) {
        let logits = upload(device, [rows, self.experts], &self.logits[..rows * self.experts]);
        let mut ids = empty(device, [rows, self.chosen], DType::U32);
        let mut weights = empty(device, [rows, self.chosen], DType::F32);
        let vector = |x: &Option<Vec<f32>>| x.as_ref().map(|x| upload(device, [self.experts], x));
        let (bias, scale) = (vector(&self.bias), vector(&self.scale));
        let tables = RouterTables {
            e_score_correction_bias: bias.as_ref().map(Tensor::view),
            expert_scale: scale.as_ref().map(Tensor::view),
        };
        let (ids_view, weights_view) = (ids.view_mut().unwrap(), weights.view_mut().unwrap());
        route(device, ids_view, weights_view, logits.view(), &self.router, tables).unwrap();
        (to_vec(device, &ids), to_vec(device, &weights))
    }

    /// The experts and weights of one row.
    fn expected(&self, logits: &[f32]) -> (Vec<usize>, Vec<f64>) {
        let mut z: Vec<f64> = logits.iter().map(|&x| f64::from(x)).collect();
        match self.router.logits {
            RouterLogits::Plain => (),
            RouterLogits::Softcap(cap) => {
                z.iter_mut().for_each(|z| *z = f64::from(cap) * (*z / f64::from(cap)).tanh());
            }
            RouterLogits::Standardized { std } => {
                let mean = z.iter().sum::<f64>() / z.len() as f64;
                let variance = z.iter().map(|z| (z - mean).powi(2)).sum::<f64>() / (z.len() - 1) as f64;
                z.iter_mut().for_each(|z| *z *= f64::from(std) / variance.sqrt());
            }
        }
        let (ids, mut weights) = match self.router.score {
            RouterScore::SparseMixer { jitter } => sparse_mixer(&z, self.chosen, f64::from(jitter)),
            score => {
                let scores: Vec<f64> = match score {
                    RouterScore::Softmax => softmax(&z),
                    RouterScore::Sigmoid => z.iter().map(|z| 1.0 / (1.0 + (-z).exp())).collect(),
                    _ => z.clone(),
                };
                let ids = self.select(&scores);
                let of_chosen: Vec<f64> = ids.iter().map(|&id| scores[id]).collect();
                let weights = match score {
                    RouterScore::SoftmaxOfChosen => softmax(&of_chosen),
                    _ => of_chosen,
                };
                (ids, weights)
            }
        };
        let sum: f64 = weights.iter().sum();
        let divisor = match self.router.renormalize {
            Renormalize::No => 1.0,
            Renormalize::Sum => sum,
            Renormalize::SumPlus(x) => sum + f64::from(x),
            Renormalize::SumAtLeast(x) => sum.max(f64::from(x)),
        };
        for (weight, &id) in weights.iter_mut().zip(&ids) {
            let scale = self.scale.as_ref().map_or(1.0, |scale| f64::from(scale[id]));
            *weight = *weight / divisor * f64::from(self.router.scale) * scale;
        }
        (ids, weights)
    }

    fn select(&self, scores: &[f64]) -> Vec<usize> {
        let biased = |e: usize| scores[e] + self.bias.as_ref().map_or(0.0, |bias| f64::from(bias[e]));
        let best = |mut of: Vec<usize>, k: usize| {
            of.sort_by(|&a, &b| biased(b).total_cmp(&biased(a)).then(a.cmp(&b)));
            of.truncate(k);
            of
        };
        let group = |g: usize, groups: usize| {
            let size = self.experts / groups;
            (g * size..(g + 1) * size).collect::<Vec<_>>()
        };
        match self.router.groups {
            ExpertGroups::All => best((0..self.experts).collect(), self.chosen),
            ExpertGroups::Each { groups } => {
                (0..groups).flat_map(|g| best(group(g, groups), self.chosen / groups)).collect()
            }
            ExpertGroups::Best { groups, kept, rank } => {
                let top = if rank == GroupRank::Max { 1 } else { 2 };
                let worth = |&g: &usize| -> f64 { best(group(g, groups), top).into_iter().map(biased).sum() };
                let mut order: Vec<usize> = (0..groups).collect();
                order.sort_by(|a, b| worth(b).total_cmp(&worth(a)).then(a.cmp(b)));
                best(order[..kept].iter().flat_map(|&g| group(g, groups)).collect(), self.chosen)
            }
        }
    }

    fn check(&self) {
        let expected: Vec<_> = self.logits.chunks(self.experts).map(|row| self.expected(row)).collect();
        for device in every_device() {
            let (ids, weights) = self.run(&device, ROWS);
            for (row, (expected_ids, expected)) in expected.iter().enumerate() {
                let at = row * self.chosen..(row + 1) * self.chosen;
                let found: Vec<usize> = ids[at.clone()].iter().map(|&id| id as usize).collect();
                assert_eq!(&found, expected_ids, "{:?}", self.router);
                assert_close(&weights[at], expected, 3e-6, "route");
            }
            for batch in [1, 2, 7, 32] {
                let part = self.run(&device, batch);
                assert_eq!(part.0, ids[..batch * self.chosen]);
                assert_same_bits(&part.1, &weights[..batch * self.chosen], "route");
            }
        }
    }
}

fn softmax(x: &[f64]) -> Vec<f64> {
    let sum: f64 = x.iter().map(|x| x.exp()).sum();
    x.iter().map(|x| x.exp() / sum).collect()
}

/// One expert after the other, by the definition.
fn sparse_mixer(z: &[f64], chosen: usize, jitter: f64) -> (Vec<usize>, Vec<f64>) {
    let (mut ids, mut weights) = (vec![], vec![]);
    for _ in 0..chosen {
        let left: Vec<usize> = (0..z.len()).filter(|e| !ids.contains(e)).collect();
        let best = left.iter().copied().max_by(|&a, &b| z[a].total_cmp(&z[b])).unwrap();
        let near = left.into_iter().filter(|&e| (z[best] - z[e]) / z[e].abs().max(z[best]) <= 2.0 * jitter);
        weights.push(z[best].exp() / near.map(|e| z[e].exp()).sum::<f64>());
        ids.push(best);
    }
    (ids, weights)
}

#[test]
fn softmax_agrees_with_a_sort_and_does_not_depend_on_the_batch() {
    for (experts, chosen) in [(5, 1), (8, 2), (60, 4), (128, 8), (4, 4)] {
        for renormalize in [Renormalize::No, Renormalize::Sum] {
            let mut case = Case::new(experts, chosen, Router { renormalize, ..Router::default() });
            // Coarse values, so that there are ties.
            case.logits.iter_mut().for_each(|x| *x = (*x * 8.0).round() / 8.0);
            case.check();
        }
    }
}

#[test]
fn every_kind_of_logits_and_score() {
    let scores = [RouterScore::Softmax, RouterScore::Sigmoid, RouterScore::SoftmaxOfChosen];
    for logits in [RouterLogits::Plain, RouterLogits::Softcap(1.5), RouterLogits::Standardized { std: 0.7 }] {
        for score in scores {
            Case::new(20, 3, Router { logits, score, ..Router::default() }).check();
        }
    }
}

#[test]
fn every_renormalisation_and_scale() {
    let kinds = [Renormalize::No, Renormalize::Sum, Renormalize::SumPlus(0.5), Renormalize::SumAtLeast(0.9)];
    for renormalize in kinds {
        for score in [RouterScore::Softmax, RouterScore::Sigmoid] {
            let router = Router { score, renormalize, scale: 2.5, ..Router::default() };
            Case::new(20, 3, router.clone()).check();
            Case::new(20, 3, router).scaled().check();
        }
    }
}

#[test]
fn a_e_score_correction_bias_chooses_but_does_not_weigh() {
    for score in [RouterScore::Softmax, RouterScore::Sigmoid, RouterScore::SoftmaxOfChosen] {
        Case::new(32, 4, Router { score, renormalize: Renormalize::Sum, ..Router::default() })
            .biased()
            .check();
    }
}

#[test]
fn groups_limit_the_choice() {
    for rank in [GroupRank::Max, GroupRank::TopTwoSum] {
        for (groups, kept) in [(8, 4), (4, 1), (2, 2), (16, 5)] {
            let groups = ExpertGroups::Best { groups, kept, rank };
            let router = Router { score: RouterScore::Sigmoid, groups, ..Router::default() };
            Case::new(32, 6, router.clone()).check();
            Case::new(32, 6, router).biased().check();
        }
    }
    for groups in [1, 2, 8] {
        Case::new(64, 8, Router { groups: ExpertGroups::Each { groups }, ..Router::default() })
            .scaled()
            .check();
    }
}

#[test]
fn a_sparse_mixer_takes_one_expert_after_the_other() {
    for jitter in [0.01, 0.2, 5.0] {
        for chosen in [1, 2, 3] {
            let score = RouterScore::SparseMixer { jitter };
            Case::new(16, chosen, Router { score, ..Router::default() }).check();
        }
    }
}

#[test]
fn nan_logits_still_give_distinct_experts() {
    let scores = [RouterScore::Softmax, RouterScore::Sigmoid, RouterScore::SoftmaxOfChosen];
    for score in scores {
        let mut case = Case::new(4, 4, Router { score, ..Router::default() });
        case.logits = vec![f32::NAN, 1.0, f32::NAN, 2.0];
        for device in every_device() {
            let (mut ids, _) = case.run(&device, 1);
            ids.sort();
            assert_eq!(ids, [0, 1, 2, 3]);
        }
    }
}

#[test]
fn contradictions_are_named() {
    let message = |experts: usize, chosen: usize, router: Router, biased: bool| {
        let device = &devices()[0];
        let mut ids = Tensor::zeros([1, chosen], DType::U32).unwrap();
        let mut weights = Tensor::zeros([1, chosen], DType::F32).unwrap();
        let logits = Tensor::zeros([1, experts], DType::F32).unwrap();
        let bias = Tensor::zeros([experts], DType::F32).unwrap();
        let tables =
            RouterTables { e_score_correction_bias: biased.then(|| bias.view()), expert_scale: None };
        let (ids, weights) = (ids.view_mut().unwrap(), weights.view_mut().unwrap());
        route(device, ids, weights, logits.view(), &router, tables).unwrap_err().to_string()
    };
    let groups = |groups| Router { groups, ..Router::default() };
    let best = |groups, kept, rank| ExpertGroups::Best { groups, kept, rank };
    let mixer = RouterScore::SparseMixer { jitter: 0.1 };
    for (experts, chosen, router, biased, expected) in [
        (4, 5, Router::default(), false, "cannot choose 5 of 4 experts"),
        (2000, 5, Router::default(), false, "2000 experts, expected at most 1024"),
        (10, 2, groups(ExpertGroups::Each { groups: 0 }), false, "10 experts do not divide into 0 groups"),
        (10, 2, groups(best(3, 1, GroupRank::Max)), false, "10 experts do not divide into 3 groups"),
        (8, 3, groups(best(4, 1, GroupRank::Max)), false, "1 of 4 groups do not hold 3 experts of 8"),
        (
            8,
            3,
            groups(best(8, 4, GroupRank::TopTwoSum)),
            false,
            "groups of one expert have no two best scores",
        ),
        (
            8,
            3,
            groups(ExpertGroups::Each { groups: 2 }),
            false,
            "3 experts are not equally many of each of 2 groups",
        ),
        (
            8,
            2,
            Router { score: mixer, ..Router::default() },
            true,
            "a sparse mixer has neither groups nor a selection bias",
        ),
        (
            8,
            2,
            Router { logits: RouterLogits::Softcap(0.0), ..Router::default() },
            false,
            "the softcap is 0, expected a positive number",
        ),
    ] {
        assert_eq!(message(experts, chosen, router, biased), format!("route: {expected}"));
    }
}
