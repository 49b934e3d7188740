//! How clients are told why a request is refused: the code of each [`ControlError`] and [`GroupError`]. What they do
//! about a code is left to `thalweg_api`.

use thalweg_api::{ApiError, ErrorCode};

use crate::{ControlError, GroupError};

impl From<&ControlError> for ApiError {
    fn from(error: &ControlError) -> ApiError {
        let code = match error {
            ControlError::Name { .. } | ControlError::Range { .. } => ErrorCode::InvalidRequest,
            // Whoever is away may come back: the client asks again.
            ControlError::TooFewBrokers { asked, known, .. } if asked <= known => ErrorCode::BrokersAway,
            ControlError::TooFewBrokers { .. } | ControlError::BrokerIdTaken { .. } => ErrorCode::InvalidRequest,
            ControlError::FewerPartitions { .. } | ControlError::HoldsGroups(_) => ErrorCode::InvalidRequest,
            ControlError::FeatureLevel { .. } | ControlError::OlderBroker { .. } => ErrorCode::Unsupported,
            ControlError::DirectoryLost { .. } | ControlError::UnknownBroker(_) => ErrorCode::InvalidRequest,
            ControlError::BrokerAlive(_) | ControlError::BrokerSilent(_) => ErrorCode::InvalidRequest,
            ControlError::CopyUnknown { .. } => ErrorCode::InvalidRequest,
            ControlError::TopicExists(_) => ErrorCode::TopicExists,
            ControlError::UnknownTopic(_) => ErrorCode::UnknownTopic,
            ControlError::UnknownPlugin(_) => ErrorCode::UnknownPlugin,
            ControlError::WrongKind { .. } => ErrorCode::WrongPluginKind,
        };
        ApiError::new(code, error.to_string())
    }
}

impl From<&GroupError> for ApiError {
    fn from(error: &GroupError) -> ApiError {
        let code = match error {
            GroupError::Id { .. } | GroupError::Characters { .. } => ErrorCode::InvalidRequest,
            GroupError::Range { .. } | GroupError::Topic(_) => ErrorCode::InvalidRequest,
            GroupError::TooManyGroups { .. } => ErrorCode::TooMany,
            GroupError::UnknownMember { .. } => ErrorCode::UnknownMember,
            GroupError::WrongSecret { .. } => ErrorCode::WrongMemberSecret,
            GroupError::BeyondEnd { .. } => ErrorCode::OffsetBeyondEnd,
            // The partition's leader may answer the next time.
            GroupError::EndUnknown { .. } => ErrorCode::NotLeader,
            GroupError::StaleEpoch { .. } => ErrorCode::StaleMemberEpoch,
            GroupError::MemberIdInUse { .. } => ErrorCode::MemberIdInUse,
            GroupError::InstanceInUse { .. } => ErrorCode::InstanceIdInUse,
            GroupError::TermsDiffer { .. } => ErrorCode::InconsistentGroup,
            GroupError::NotEmpty { .. } => ErrorCode::GroupNotEmpty,
            GroupError::UnknownGroup(_) => ErrorCode::UnknownGroup,
            GroupError::UnknownPartition(_) => ErrorCode::UnknownPartition,
        };
        ApiError::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_brokers_pass_where_enough_are_known() {
        let code = |asked, live, known| ApiError::from(&ControlError::TooFewBrokers { asked, live, known }).code;
        assert_eq!(code(3, 2, 3), ErrorCode::BrokersAway);
        assert_eq!(code(3, 2, 2), ErrorCode::InvalidRequest);
        assert!(ErrorCode::BrokersAway.client_retries() && ErrorCode::BrokersAway.kind().is_retriable());
    }
}
