//! Attacks on a live broker, with an honest producer and an honest consumer beside them: what these see of an attack is
//! bounded, and so is what the broker spends on it.
//!
//! `scene.rs` is the stage; each file beside holds the attacks of one kind. An attacker has no SDK: it sends frames by
//! hand (`raw.rs`).

mod asks;
mod doors;
mod rights;
mod scene;
mod spend;

use std::time::Duration;

use self::scene::Scene;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_attack_nothing_changes() {
    let report = Scene::start().await.attack(async |scene| {
        scene.client.topics().await.unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
    });
    report.await.check(16);
}
