//! For stores that stand before another one and change a few of its answers.

/// `forward!(FIELD: METHOD…)`: those methods of [`Store`](strata::backup::store::Store) are left to the store in FIELD.
macro_rules! forward {
    ($store:ident: $($method:ident)*) => { $(forward!(@$method $store);)* };
    (@ensure $store:ident) => {
        fn ensure(&self) -> futures::future::BoxFuture<'_, Result<(), strata::backup::store::StoreError>> {
            self.$store.ensure()
        }
    };
    (@put $store:ident) => {
        fn put<'a>(
            &'a self,
            key: &'a str,
            body: bytes::Bytes,
        ) -> futures::future::BoxFuture<'a, Result<(), strata::backup::store::StoreError>> {
            self.$store.put(key, body)
        }
    };
    (@get $store:ident) => {
        fn get<'a>(
            &'a self,
            key: &'a str,
            limit: u64,
        ) -> futures::future::BoxFuture<'a, Result<bytes::Bytes, strata::backup::store::StoreError>> {
            self.$store.get(key, limit)
        }
    };
    (@get_range $store:ident) => {
        fn get_range<'a>(
            &'a self,
            key: &'a str,
            range: std::ops::Range<u64>,
        ) -> futures::future::BoxFuture<'a, Result<bytes::Bytes, strata::backup::store::StoreError>> {
            self.$store.get_range(key, range)
        }
    };
    (@begin $store:ident) => {
        fn begin<'a>(
            &'a self,
            key: &'a str,
        ) -> futures::future::BoxFuture<
            'a,
            Result<Box<dyn strata::backup::store::ObjectWriter>, strata::backup::store::StoreError>,
        > {
            self.$store.begin(key)
        }
    };
    (@delete $store:ident) => {
        fn delete<'a>(
            &'a self,
            key: &'a str,
        ) -> futures::future::BoxFuture<'a, Result<(), strata::backup::store::StoreError>> {
            self.$store.delete(key)
        }
    };
    (@list $store:ident) => {
        fn list<'a>(
            &'a self,
            prefix: &'a str,
        ) -> futures::future::BoxFuture<
            'a,
            Result<Vec<strata::backup::store::ObjectInfo>, strata::backup::store::StoreError>,
        > {
            self.$store.list(prefix)
        }
    };
}
