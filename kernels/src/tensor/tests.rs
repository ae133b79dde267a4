use super::*;

#[test]
fn zeros_are_zero_and_refuse_what_cannot_be_had() {
    let mut tensor = Tensor::zeros([3, 1000, 1000], DType::F32).unwrap();
    assert!(tensor.as_slice::<f32>().unwrap().iter().all(|&x| x == 0.0));
    tensor.as_mut_slice::<f32>().unwrap().fill(1.0);
    assert_eq!(tensor.rows(1).unwrap().as_slice::<f32>().unwrap().len(), 1_000_000);
    assert!(Tensor::zeros([0, 7], DType::BF16).unwrap().as_slice::<half::bf16>().unwrap().is_empty());
    for shape in [[usize::MAX, 2], [1 << 31, 1 << 31]] {
        let error = Tensor::zeros(shape, DType::F32).unwrap_err();
        assert!(matches!(error, KernelError::OutOfMemory { .. }), "{error}");
    }
}

#[test]
fn shared_bytes_are_checked_and_read_only() {
    static BYTES: [u32; 4] = [1, 2, 3, 4];
    let bytes = Bytes::Static(bytemuck::cast_slice(&BYTES));
    let tensor = |offset, n| Tensor::from_bytes(bytes.clone(), offset, [n], DType::U32);
    assert_eq!(tensor(4, 3).unwrap().as_slice::<u32>().unwrap(), [2, 3, 4]);
    assert!(tensor(8, 3).is_err());
    assert!(tensor(usize::MAX, 1).is_err());
    assert!(tensor(0, usize::MAX).is_err());
    assert!(tensor(2, 1).is_err(), "not aligned");
    assert!(tensor(0, 4).unwrap().view_mut().is_err());
    assert!(tensor(0, 4).unwrap().as_slice::<f32>().is_err());
}

#[test]
fn views_check_their_shape_and_rows() {
    let data = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0];
    let view = View::from_slice([3, 2], &data).unwrap();
    assert_eq!(view.slice(1, 2).unwrap().as_slice::<f32>().unwrap(), [3.0, 4.0, 5.0, 6.0]);
    assert!(view.slice(2, 2).is_err());
    assert!(view.slice(usize::MAX, 2).is_err());
    assert!(View::from_slice([4, 2], &data).is_err());
    let mut data = data;
    let view = ViewMut::from_slice([3, 2], &mut data).unwrap();
    view.into_rows(1).unwrap().into_mut_slice::<f32>().unwrap().fill(0.0);
    assert_eq!(data, [0.0, 0.0, 3.0, 4.0, 5.0, 6.0]);
}
