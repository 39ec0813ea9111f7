//! Delegation for test stores that intercept only the writing of uploads.

/// Implements [`EventLog`](crate::EventLog), [`HookCalls`](crate::HookCalls) and [`Store`](crate::Store) by
/// forwarding every call to the store in a field.
#[macro_export]
macro_rules! delegate_store {
    ($store:ty, $inner:ident) => {
        #[deny(clippy::missing_trait_methods)]
        #[async_trait::async_trait]
        impl $crate::EventLog for $store {
            async fn events_of(
                &self,
                scope: domain::principal::TenantScope,
                id: domain::id::UploadId,
                after: u64,
                limit: u32,
            ) -> $crate::Result<Vec<domain::log::LoggedEvent>> {
                $crate::EventLog::events_of(&*self.$inner, scope, id, after, limit).await
            }

            async fn events_since(
                &self,
                scope: domain::principal::TenantScope,
                after: domain::log::EventPosition,
                limit: u32,
            ) -> $crate::Result<domain::log::EventPage> {
                $crate::EventLog::events_since(&*self.$inner, scope, after, limit).await
            }

            async fn newest_event(&self) -> $crate::Result<domain::log::EventPosition> {
                $crate::EventLog::newest_event(&*self.$inner).await
            }

            async fn count_events_behind(
                &self,
                scope: domain::principal::TenantScope,
                after: domain::log::EventPosition,
                most: u32,
            ) -> $crate::Result<Option<u32>> {
                $crate::EventLog::count_events_behind(&*self.$inner, scope, after, most).await
            }
        }

        #[deny(clippy::missing_trait_methods)]
        #[async_trait::async_trait]
        impl $crate::HookCalls for $store {
            async fn record_hook_call(&self, call: domain::hook::HookCall) -> $crate::Result<()> {
                $crate::HookCalls::record_hook_call(&*self.$inner, call).await
            }

            async fn hook_calls(
                &self,
                scope: domain::principal::TenantScope,
                query: &domain::query::HookCallQuery,
            ) -> $crate::Result<Vec<domain::hook::HookCall>> {
                $crate::HookCalls::hook_calls(&*self.$inner, scope, query).await
            }
        }

        #[deny(clippy::missing_trait_methods)]
        #[async_trait::async_trait]
        impl $crate::Store for $store {
            async fn check(&self) -> $crate::Result<()> {
                $crate::Store::check(&*self.$inner).await
            }

            fn clock(&self) -> $crate::clock::Clock {
                $crate::Store::clock(&*self.$inner)
            }

            async fn close(&self) {
                $crate::Store::close(&*self.$inner).await;
            }
        }
    };
}
