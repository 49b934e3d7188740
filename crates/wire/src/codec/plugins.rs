//! Requests about plugins; a module is the body of its frame.

use bytes::Bytes;
use thalweg_api::*;
use thalweg_model::{PluginDigest, PluginKind};

use super::{Codec, invalid, page, page_bytes, required};
use crate::proto;

pub(super) fn digest(bytes: &[u8]) -> Result<PluginDigest, ApiError> {
    let digest = bytes.try_into().map_err(|_| ApiError::malformed("a digest is 32 bytes"))?;
    Ok(PluginDigest(digest))
}

fn kind(name: &str) -> Result<PluginKind, ApiError> {
    let unknown = || invalid(format!("plugin kind {name:?} is unknown: partitioner or filter"));
    PluginKind::from_name(name).ok_or_else(unknown)
}

impl From<Plugin> for proto::Plugin {
    fn from(p: Plugin) -> Self {
        proto::Plugin {
            name: p.name,
            version: p.version,
            digest: Bytes::copy_from_slice(&p.digest.0),
            kind: p.kind.name().into(),
            bytes: p.bytes,
            created_ms: p.created_ms,
            contract: p.contract,
        }
    }
}

impl TryFrom<proto::Plugin> for Plugin {
    type Error = ApiError;

    fn try_from(p: proto::Plugin) -> Result<Self, ApiError> {
        Ok(Plugin {
            digest: digest(&p.digest)?,
            kind: kind(&p.kind)?,
            name: p.name,
            version: p.version,
            bytes: p.bytes,
            created_ms: p.created_ms,
            contract: p.contract,
        })
    }
}

impl Codec for UploadPluginRequest {
    type Head = proto::UploadPluginRequest;

    fn into_parts(self) -> (Self::Head, Bytes) {
        let kind = self.kind.map_or_else(String::new, |k| k.name().to_owned());
        (proto::UploadPluginRequest { name: self.name, kind }, self.module)
    }

    fn from_parts(head: Self::Head, module: Bytes) -> Result<Self, ApiError> {
        let kind = (!head.kind.is_empty()).then(|| kind(&head.kind)).transpose()?;
        Ok(UploadPluginRequest { name: head.name, kind, module })
    }
}

impl Codec for UploadPluginReply {
    type Head = proto::UploadPluginReply;

    fn into_parts(self) -> (Self::Head, Bytes) {
        (proto::UploadPluginReply { plugin: Some(self.plugin.into()), existed: self.existed }, Bytes::new())
    }

    fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
        let plugin = required(head.plugin, "the plugin")?.try_into()?;
        Ok(UploadPluginReply { plugin, existed: head.existed })
    }
}

impl Codec for ListPluginsReply {
    type Head = proto::ListPluginsReply;

    fn into_parts(self) -> (Self::Head, Bytes) {
        let plugins = self.plugins.into_iter().map(Into::into).collect();
        (proto::ListPluginsReply { plugins, next_page: page_bytes(self.next) }, Bytes::new())
    }

    fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
        let plugins = head.plugins.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
        Ok(ListPluginsReply { plugins, next: page(head.next_page) })
    }
}

impl Codec for FetchPluginRequest {
    type Head = proto::FetchPluginRequest;

    fn into_parts(self) -> (Self::Head, Bytes) {
        let (digest, reference) = match self.plugin {
            PluginReference::Digest(digest) => (Bytes::copy_from_slice(&digest.0), String::new()),
            PluginReference::Name(name) => (Bytes::new(), name),
        };
        (proto::FetchPluginRequest { digest, reference }, Bytes::new())
    }

    fn from_parts(head: Self::Head, _: Bytes) -> Result<Self, ApiError> {
        let plugin = match head.digest.is_empty() {
            true => PluginReference::Name(head.reference),
            false => PluginReference::Digest(digest(&head.digest)?),
        };
        Ok(FetchPluginRequest { plugin })
    }
}

impl Codec for FetchPluginReply {
    type Head = proto::FetchPluginReply;

    fn into_parts(self) -> (Self::Head, Bytes) {
        (proto::FetchPluginReply { plugin: Some(self.plugin.into()) }, self.module)
    }

    fn from_parts(head: Self::Head, module: Bytes) -> Result<Self, ApiError> {
        Ok(FetchPluginReply { plugin: required(head.plugin, "the plugin")?.try_into()?, module })
    }
}

impl Codec for StoreModuleRequest {
    type Head = proto::StoreModuleRequest;

    fn into_parts(self) -> (Self::Head, Bytes) {
        (proto::StoreModuleRequest { digest: Bytes::copy_from_slice(&self.digest.0) }, self.module)
    }

    fn from_parts(head: Self::Head, module: Bytes) -> Result<Self, ApiError> {
        Ok(StoreModuleRequest { digest: digest(&head.digest)?, module })
    }
}
