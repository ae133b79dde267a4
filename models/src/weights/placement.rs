//! Weights go where the device computes, layer by layer: what they were claimed from is let go as they arrive.

use mosu_kernels::{Device, Result, Tensor, ops::Linear};

use super::{
    DecoderWeights, FfnWeights, LatentQueries, LatentWeights, LayerWeights, LowRankWeights, MoeWeights,
    NetworkWeights, NormWeights, QkvWeights, SharedWeights,
};
use crate::LoadProgress;

impl DecoderWeights {
    /// The same weights on `device`; on the processor they stay where they are. Reports every layer that has arrived.
    ///
    /// # Errors
    /// When memory is short, or the device failed.
    pub fn move_to(self, device: &Device, progress: &mut dyn FnMut(LoadProgress)) -> Result<DecoderWeights> {
        if let Device::Cpu(_) = device {
            return Ok(self);
        }
        let count = self.layers.len() as u64 + 1;
        let mut done = LoadProgress {
            tensors_done: 0,
            tensors_total: self.layers.len() + 1,
            bytes_done: 0,
            bytes_total: self.bytes,
        };
        let mut arrived = || {
            done.tensors_done += 1;
            done.bytes_done = self.bytes * done.tensors_done as u64 / count;
            progress(done);
        };
        let tables = DecoderWeights {
            embedding: self.embedding.to_device(device)?,
            positions: moved(self.positions, device)?,
            embedding_norm: self.embedding_norm.map(|norm| norm.move_to(device)).transpose()?,
            layers: Vec::with_capacity(self.layers.len()),
            final_norm: self.final_norm.move_to(device)?,
            untied_head: self.untied_head.map(|head| head.to_device(device)).transpose()?,
            bytes: self.bytes,
        };
        arrived();
        let layer = |layer: LayerWeights| {
            let layer = layer.move_to(device)?;
            arrived();
            Ok(layer)
        };
        let layers = self.layers.into_iter().map(layer).collect::<Result<_>>()?;
        Ok(DecoderWeights { layers, ..tables })
    }
}

fn moved(tensor: Option<Tensor>, device: &Device) -> Result<Option<Tensor>> {
    tensor.map(|tensor| tensor.to_device(device)).transpose()
}

fn moved_linear(linear: Option<Linear>, device: &Device) -> Result<Option<Linear>> {
    linear.map(|linear| linear.to_device(device)).transpose()
}

impl NormWeights {
    fn move_to(self, device: &Device) -> Result<NormWeights> {
        Ok(NormWeights { weight: self.weight.to_device(device)?, bias: moved(self.bias, device)?, ..self })
    }
}

impl LayerWeights {
    fn move_to(self, device: &Device) -> Result<LayerWeights> {
        let norm_if = |norm: Option<NormWeights>| norm.map(|norm| norm.move_to(device)).transpose();
        Ok(LayerWeights {
            attention_norm: self.attention_norm.move_to(device)?,
            qkv: self.qkv.move_to(device)?,
            qk_norm: match self.qk_norm {
                Some([q, k]) => Some([q.to_device(device)?, k.to_device(device)?]),
                None => None,
            },
            sinks: moved(self.sinks, device)?,
            head_gate: moved_linear(self.head_gate, device)?,
            o_proj: self.o_proj.to_device(device)?,
            attention_post_norm: norm_if(self.attention_post_norm)?,
            ffn_norm: self.ffn_norm.move_to(device)?,
            ffn: match self.ffn {
                FfnWeights::Dense(network) => FfnWeights::Dense(network.move_to(device)?),
                FfnWeights::Moe(moe) => FfnWeights::Moe(Box::new(moe.move_to(device)?)),
            },
            ffn_post_norm: norm_if(self.ffn_post_norm)?,
        })
    }
}

impl QkvWeights {
    fn move_to(self, device: &Device) -> Result<QkvWeights> {
        match self {
            QkvWeights::Direct(linear) => Ok(QkvWeights::Direct(linear.to_device(device)?)),
            QkvWeights::LowRank { q, kv } => {
                Ok(QkvWeights::LowRank { q: Box::new(q.move_to(device)?), kv: kv.to_device(device)? })
            }
            QkvWeights::Latent(latent) => Ok(QkvWeights::Latent(Box::new(latent.move_to(device)?))),
        }
    }
}

impl LowRankWeights {
    fn move_to(self, device: &Device) -> Result<LowRankWeights> {
        Ok(LowRankWeights {
            down: self.down.to_device(device)?,
            norm: self.norm.move_to(device)?,
            up: self.up.to_device(device)?,
        })
    }
}

impl LatentWeights {
    fn move_to(self, device: &Device) -> Result<LatentWeights> {
        Ok(LatentWeights {
            q: match self.q {
                LatentQueries::Direct(linear) => LatentQueries::Direct(linear.to_device(device)?),
                LatentQueries::LowRank(q) => LatentQueries::LowRank(Box::new(q.move_to(device)?)),
            },
            kv_down: self.kv_down.to_device(device)?,
            kv_norm: self.kv_norm.move_to(device)?,
            w_uk: self.w_uk.to_device(device)?,
            w_uv: self.w_uv.to_device(device)?,
        })
    }
}

impl NetworkWeights {
    fn move_to(self, device: &Device) -> Result<NetworkWeights> {
        let (gate_up, down) = (self.gate_up.to_device(device)?, self.down.to_device(device)?);
        Ok(NetworkWeights { gate_up, down, ..self })
    }
}

impl MoeWeights {
    fn move_to(self, device: &Device) -> Result<MoeWeights> {
        Ok(MoeWeights {
            router: self.router.to_device(device)?,
            selection_bias: moved(self.selection_bias, device)?,
            expert_scale: moved(self.expert_scale, device)?,
            experts: self.experts.to_device(device)?,
            shared: self.shared.map(|shared| shared.move_to(device)).transpose()?,
            ..self
        })
    }
}

impl SharedWeights {
    fn move_to(self, device: &Device) -> Result<SharedWeights> {
        Ok(SharedWeights {
            network: self.network.move_to(device)?,
            gate: moved_linear(self.gate, device)?,
            ..self
        })
    }
}
