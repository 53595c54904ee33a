"""What audio files state beside their sound: containers whose lengths are checked, frames of MP3s."""
