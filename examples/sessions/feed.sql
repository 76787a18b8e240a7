INSERT INTO app_events (user_id, screen, ts, key)
SELECT user_id, screen, ts, user_id FROM script
WHERE arrival >= :'from' AND arrival < :'to' ORDER BY arrival;
