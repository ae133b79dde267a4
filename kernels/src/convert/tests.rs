use super::*;

#[test]
fn kv_b_is_split_by_head_and_its_keys_are_transposed() {
    let (heads, nope, value, latent) = (3, 2, 4, 5);
    let all: Vec<f32> = (0..heads * (nope + value) * latent).map(|i| i as f32).collect();
    let kv_b = View::from_slice([heads * (nope + value), latent], &all).unwrap();
    let [w_uk, w_uv] = split_kv_b(kv_b, heads, nope).unwrap();
    assert_eq!((w_uk.shape().dims(), w_uv.shape().dims()), (&[3, 5, 2][..], &[3, 4, 5][..]));
    for head in 0..heads {
        for l in 0..latent {
            let of = |row: usize| ((head * (nope + value) + row) * latent + l) as f32;
            for n in 0..nope {
                assert_eq!(w_uk.as_slice::<f32>().unwrap()[(head * latent + l) * nope + n], of(n));
            }
            for d in 0..value {
                assert_eq!(w_uv.as_slice::<f32>().unwrap()[(head * value + d) * latent + l], of(nope + d));
            }
        }
    }
}
