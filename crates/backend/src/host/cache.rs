//! The KV cache in host memory.

use super::kv_format::decode;
use super::{Memory, ZeroedBytes};
use crate::{CacheConfig, CacheLayerConfig, CacheLayerId, Error, KvFormat, Result};

const ADVICE: &str = "use a shorter context, fewer sequences or a smaller KV format";

/// One layer's keys and values.
#[derive(Debug)]
pub struct HostLayer {
    /// Shapes and formats.
    pub config: CacheLayerConfig,
    /// Pages a group's layer has.
    pub n_pages: usize,
    /// Tokens a page.
    pub page_size: usize,
    /// `None` for full attention.
    pub window: Option<u32>,
    /// `[n_pages, n_kv_heads, page_size, k_dim]`
    pub k: ZeroedBytes,
    /// `[n_pages, n_kv_heads, page_size, v_dim]`
    pub v: ZeroedBytes,
}

/// All layers.
#[derive(Debug, Default)]
pub struct HostCache {
    config: CacheConfig,
    layers: Vec<HostLayer>,
}

impl HostCache {
    /// A zeroed cache; memory is taken as pages are first written.
    ///
    /// # Errors
    /// [`Error::Step`] for a contradictory configuration, [`Error::OutOfMemory`].
    pub fn new(config: &CacheConfig) -> Result<Self> {
        config.check()?;
        let sizes = config.layers.iter().map(|layer| layer_bytes(config, layer));
        let needed = sizes.fold(0_u128, |sum, (k, v)| sum + k + v);
        Memory::require("the KV cache", u64::try_from(needed).unwrap_or(u64::MAX), ADVICE)?;
        let layers = config.layers.iter().map(|layer| {
            let group = &config.groups[layer.group];
            let (k, v) = layer_bytes(config, layer);
            let zeroed = |bytes| {
                ZeroedBytes::new("the KV cache", usize::try_from(bytes).unwrap_or(usize::MAX), ADVICE)
            };
            Ok(HostLayer {
                config: layer.clone(),
                n_pages: group.n_pages as usize,
                page_size: group.page_size as usize,
                window: group.window,
                k: zeroed(k)?,
                v: zeroed(v)?,
            })
        });
        let layers = layers.collect::<Result<_>>()?;
        Ok(Self { config: config.clone(), layers })
    }

    /// The configuration it was made with.
    pub fn config(&self) -> &CacheConfig {
        &self.config
    }

    /// A layer that a checked step names.
    pub fn layer(&self, id: CacheLayerId) -> &HostLayer {
        &self.layers[id.0 as usize]
    }

    /// A layer that a checked step names.
    pub fn layer_mut(&mut self, id: CacheLayerId) -> &mut HostLayer {
        &mut self.layers[id.0 as usize]
    }

    /// The configuration beside the layers, by [`CacheLayerId`].
    pub fn split(&mut self) -> (&CacheConfig, &mut [HostLayer]) {
        (&self.config, &mut self.layers)
    }

    /// Copies whole pages `(from, to)` in every layer of `group`.
    ///
    /// # Errors
    /// [`Error::Inputs`] for a group or page that is not there; nothing is copied then.
    pub fn copy_pages(&mut self, group: usize, pages: &[(u32, u32)]) -> Result<()> {
        let Some(config) = self.config.groups.get(group) else {
            return Err(Error::Inputs(format!("there is no cache group {group}")));
        };
        if let Some((from, to)) = pages.iter().find(|(from, to)| from.max(to) >= &config.n_pages) {
            let n = config.n_pages;
            return Err(Error::Inputs(format!(
                "cannot copy page {from} to {to}: group {group} has {n} pages"
            )));
        }
        for layer in self.layers.iter_mut().filter(|layer| layer.config.group == group) {
            let n_pages = layer.n_pages;
            for bytes in [&mut layer.k, &mut layer.v] {
                let page_bytes = bytes.len() / n_pages;
                for &(from, to) in pages {
                    let from = from as usize * page_bytes;
                    bytes.as_mut_slice().copy_within(from..from + page_bytes, to as usize * page_bytes);
                }
            }
        }
        Ok(())
    }
}

/// Bytes of keys and of values.
fn layer_bytes(config: &CacheConfig, layer: &CacheLayerConfig) -> (u128, u128) {
    let group = &config.groups[layer.group];
    let heads = u128::from(group.n_pages) * u128::from(group.page_size) * layer.n_kv_heads as u128;
    let bytes = |format: KvFormat, dim| heads * format.bytes(dim) as u128;
    (bytes(layer.k_format, layer.k_dim), bytes(layer.v_format, layer.v_dim))
}

impl HostLayer {
    /// The first position that the row at `position` sees.
    pub fn oldest(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window as usize))
    }

    /// Which head vector `slot` (`page * page_size + offset`) of `kv_head` is.
    pub fn vector(&self, slot: usize, kv_head: usize) -> usize {
        let (page, offset) = (slot / self.page_size, slot % self.page_size);
        (page * self.config.n_kv_heads + kv_head) * self.page_size + offset
    }

    /// The key at `slot`.
    pub fn key(&self, slot: usize, kv_head: usize) -> Vec<f32> {
        let bytes = self.config.k_format.bytes(self.config.k_dim);
        let at = self.vector(slot, kv_head) * bytes;
        decode(self.config.k_format, self.config.k_dim, &self.k.as_slice()[at..at + bytes])
    }

    /// The value at `slot`.
    pub fn value(&self, slot: usize, kv_head: usize) -> Vec<f32> {
        let bytes = self.config.v_format.bytes(self.config.v_dim);
        let at = self.vector(slot, kv_head) * bytes;
        decode(self.config.v_format, self.config.v_dim, &self.v.as_slice()[at..at + bytes])
    }

    /// Stores a head's key and value at `slot`.
    pub fn store(&mut self, slot: usize, kv_head: usize, key: &[f32], value: &[f32]) {
        let at = self.vector(slot, kv_head);
        let (k, v) = (self.config.k_format, self.config.v_format);
        let bytes = k.bytes(key.len());
        k.encode(key, &mut self.k.as_mut_slice()[at * bytes..][..bytes]);
        let bytes = v.bytes(value.len());
        v.encode(value, &mut self.v.as_mut_slice()[at * bytes..][..bytes]);
    }
}
