//! `gated_linear`: the first half of a gated feed-forward network.

use super::{
    check::Check,
    gated_activation::{Glu, gated_activation},
    linear::{Linear, cuda, linear},
};
use crate::{DType, Device, Result, View, ViewMut};

/// `out = glu(gate, up)`, with gate and up side by side in `linear(x)`.
///
/// - `out`: compute `[T, I]`
/// - `gate_up`: f32 `[T, 2I]`, room for `linear(x)` on devices that need it; afterwards it may hold anything
/// - `x`: compute `[T, K]`
/// - `gate_up_proj`: `[2I, K]`, the gate's rows, then those of up
///
/// # Errors
/// When shapes or types do not fit.
pub fn gated_linear(
    device: &Device,
    out: ViewMut<'_>,
    mut gate_up: ViewMut<'_>,
    x: View<'_>,
    gate_up_proj: &Linear,
    glu: Glu,
) -> Result<()> {
    let check = Check("gated_linear");
    let [rows, width] = check.dims("out", &out)?;
    check.dtype("out", &out, gate_up_proj.compute())?;
    check.is("gate_up", &gate_up, [rows, gate_up_proj.out_features()], DType::F32)?;
    check.is("x", &x, [rows, gate_up_proj.in_features()], gate_up_proj.compute())?;
    check.that(gate_up_proj.out_features() == 2 * width, || {
        format!(
            "a weight of {} rows for {width} outputs, expected twice as many",
            gate_up_proj.out_features()
        )
    })?;
    match device {
        Device::Cuda(gpu) if cuda::has_gated(gpu, gate_up_proj) => {
            cuda::gated_linear(gpu, out, x, gate_up_proj, glu)
        }
        _ => {
            linear(device, gate_up.reborrow(), x, gate_up_proj)?;
            gated_activation(device, out, gate_up.as_view(), glu)
        }
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;
    use crate::{
        Tensor,
        ops::{Activation, LinearPart, testing::*},
    };

    fn check<W: Rounded, X: Rounded>() {
        let (rows, width, k) = (70, 44, 72);
        let mut random = Random::new(21);
        let [gate, up] = [(); 2].map(|()| rounded::<W>(&random.floats(width * k, 1.0)));
        let biases: Vec<W> = rounded(&random.floats(width, 1.0));
        let x: Vec<X> = rounded(&random.floats(rows * k, 1.0));
        let part = |weight, bias: Option<&[W]>| LinearPart {
            weight: Tensor::from_slice([width, k], weight).unwrap().into(),
            bias: bias.map(|bias| Tensor::from_slice([width], bias).unwrap()),
        };
        for device in every_device() {
            let layer = Linear::new(vec![part(&gate, None), part(&up, Some(&biases))]).unwrap();
            let layer = layer.to_device(&device).unwrap();
            for glu in [Glu::Plain(Activation::GeluTanh), Glu::SwigluOai { alpha: 1.7, limit: 2.0 }] {
                let run = |batch: usize| {
                    let input = upload(&device, [batch, k], &x[..batch * k]);
                    let mut gate_up = empty(&device, [batch, 2 * width], DType::F32);
                    let mut out = empty(&device, [batch, width], X::DTYPE);
                    let (gate_up, out_view) = (gate_up.view_mut().unwrap(), out.view_mut().unwrap());
                    gated_linear(&device, out_view, gate_up, input.view(), &layer, glu).unwrap();
                    to_vec::<X>(&device, &out)
                };
                let all = run(rows);
                let input = upload(&device, [rows, k], &x);
                let mut gate_up = empty(&device, [rows, 2 * width], DType::F32);
                linear(&device, gate_up.view_mut().unwrap(), input.view(), &layer).unwrap();
                let mut expected = empty(&device, [rows, width], X::DTYPE);
                gated_activation(&device, expected.view_mut().unwrap(), gate_up.view(), glu).unwrap();
                assert_same_bits(&widened(&all), &widened(&to_vec::<X>(&device, &expected)), "both ops");
                for batch in [1, 2, 7, 32] {
                    assert_same_bits(&widened(&run(batch)), &widened(&all[..batch * width]), "batch");
                }
            }
        }
    }

    #[test]
    fn is_linear_then_gated_activation() {
        check::<f32, f32>();
        check::<f16, f32>();
        check::<bf16, bf16>();
    }

    #[test]
    fn misfits_are_named() {
        let tensor = |shape: [usize; 2]| Tensor::zeros(shape, DType::F32).unwrap();
        let layer = Linear::new(vec![LinearPart { weight: tensor([6, 8]).into(), bias: None }]).unwrap();
        let (mut out, mut gate_up, x) = (tensor([1, 4]), tensor([1, 6]), tensor([1, 8]));
        let (out, gate_up) = (out.view_mut().unwrap(), gate_up.view_mut().unwrap());
        let glu = Glu::Plain(Activation::Silu);
        let error = gated_linear(&devices()[0], out, gate_up, x.view(), &layer, glu).unwrap_err();
        assert_eq!(
            error.to_string(),
            "gated_linear: a weight of 6 rows for 4 outputs, expected twice as many"
        );
    }
}
