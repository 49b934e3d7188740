//! How clients are told why the cluster did not change, or a group's request was not answered: the code of each
//! [`ChangeError`] and [`CoordinatorError`]. What they do about a code is left to `thalweg_api`.

use thalweg_api::{ApiError, ErrorCode};
use thalweg_replica::ProduceError;

use crate::{ChangeError, CoordinatorError};

impl From<&ChangeError> for ApiError {
    fn from(error: &ChangeError) -> ApiError {
        let code = match error {
            ChangeError::Refused(error) => return error.into(),
            ChangeError::NotController { .. } => ErrorCode::NotLeader,
            ChangeError::Log(ProduceError::StorageFull) => ErrorCode::StorageFull,
            ChangeError::Log(ProduceError::Backlog) | ChangeError::Busy => ErrorCode::Backlog,
            ChangeError::Log(_) => ErrorCode::Internal,
        };
        ApiError::new(code, error.to_string())
    }
}

impl From<&CoordinatorError> for ApiError {
    fn from(error: &CoordinatorError) -> ApiError {
        let code = match error {
            CoordinatorError::Refused(error) => return error.into(),
            CoordinatorError::NotCoordinator { .. } => ErrorCode::NotCoordinator,
            CoordinatorError::Log(ProduceError::StorageFull) => ErrorCode::StorageFull,
            CoordinatorError::Log(ProduceError::Backlog) | CoordinatorError::Busy { .. } => ErrorCode::Backlog,
            CoordinatorError::Log(ProduceError::Offline(_) | ProduceError::Lost(_)) => ErrorCode::PartitionOffline,
            CoordinatorError::Log(_) => ErrorCode::Internal,
        };
        ApiError::new(code, error.to_string())
    }
}
