"""The admin page. It answers: where is my study, and did the PACS really get it."""
