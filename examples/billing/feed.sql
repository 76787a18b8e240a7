INSERT INTO usage (customer, kwh, used_at)
SELECT customer, kwh, used_at FROM script
WHERE arrival >= :'from' AND arrival < :'to' ORDER BY arrival;
