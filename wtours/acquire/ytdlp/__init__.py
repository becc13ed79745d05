"""Downloads by yt-dlp."""
